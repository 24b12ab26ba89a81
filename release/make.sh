#!/usr/bin/env bash
# Puts a release together in a folder: make.sh <folder with programs/ARCH> <folder of the release, made anew>.
# It reads the commit that is checked out, not what has been changed since, and writes the same bytes for the same commit.
# From the environment: ARCHES, REGISTRY, VERSION, REPOSITORY, and the programs HELM, NODE (tidegate-cluster) and CYCLONEDX.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=$(cd "$1" && pwd)
rm -rf "$2"
mkdir -p "$2"
out=$(cd "$2" && pwd)
. release/targets.sh
revision=$(git rev-parse HEAD)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git archive HEAD | tar -x -C "$work"
cd "$work"

images() {
  local image program entry architecture built
  while read -r image program entry; do
    built=()
    for architecture in $ARCHES; do built+=("$architecture=$programs/$architecture/$program"); done
    echo "$REGISTRY/tidegate/$image:$VERSION@$("$NODE" oci "$REGISTRY/tidegate/$image:$VERSION" "$out/tidegate-$image-$VERSION.oci.tar" \
      --program "$entry" --created "$SOURCE_DATE_EPOCH" \
      --annotation "org.opencontainers.image.title=tidegate-$image" --annotation "org.opencontainers.image.version=$VERSION" \
      --annotation "org.opencontainers.image.revision=$revision" --annotation "org.opencontainers.image.source=$REPOSITORY" \
      --annotation org.opencontainers.image.licenses=Apache-2.0 "${built[@]}")"
  done <<'EOF' >"$out/images.txt"
operator tidegate-operator /bin/tidegate-operator
sidecar tidegate-handler-sidecar /bin/tidegate-handler-sidecar
ingress tidegate-ingress /bin/tidegate-ingress
EOF
}

# The registry of the release is the chart's default; whoever mirrors the images says another one.
chart() {
  sed -i "/^images:/,/^  registry:/ s#^  registry: .*#  registry: $REGISTRY#" charts/tidegate/values.yaml
  grep -qxF "  registry: $REGISTRY" charts/tidegate/values.yaml
  sed -i "/^| \`images.registry\` /s#\`localhost\`#\`$REGISTRY\`#" charts/tidegate/README.md
  grep -qF "| \`$REGISTRY\` |" charts/tidegate/README.md
  find charts/tidegate -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
  "$HELM" package charts/tidegate --destination "$out" >/dev/null
  HELM=$HELM manifests/install.sh >"$out/install.yaml"
  cp manifests/crds.yaml "$out/"
}

command_line() {
  local architecture name
  for architecture in $ARCHES; do
    name=tidegate-$VERSION-linux-$architecture
    mkdir "$name"
    cp "$programs/$architecture/tidegate" LICENSE "$name/"
    tar --create --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX "$name" |
      gzip --no-name --best >"$out/$name.tar.gz"
  done
}

# What each program is made of, as CycloneDX. It names folders of this machine, which are cut off.
bill() {
  local architecture program target
  for architecture in $ARCHES; do
    target=$(rust_target "$architecture")
    "$CYCLONEDX" cyclonedx --quiet --format json --describe binaries --target "$target"
    for program in operator/tidegate-operator handler-sidecar/tidegate-handler-sidecar ingress/tidegate-ingress cli/tidegate; do
      sed "s#$work#/tidegate#g" "${program}_bin.cdx.json" >"$out/${program#*/}-$VERSION-linux-$architecture.cdx.json"
    done
    find . -name '*.cdx.json' -delete
  done
}

images
chart
command_line
bill
cd "$out"
find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >"$work/SHA256SUMS"
cp "$work/SHA256SUMS" .
