#!/usr/bin/env bash
# Builds the programs of a release for one architecture: programs.sh <amd64|arm64> <folder for them>.
# The same commit, Rust and C compiler give the same bytes, wherever the checkout, Cargo's home and the target folder are.
set -euo pipefail
cd "$(dirname "$0")/.."
architecture=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
. release/targets.sh
target=$(rust_target "$architecture")
host=$(rustc -vV | sed -n 's/^host: //p')

if [ ! -d "$(rustc --print target-libdir --target "$target")" ]; then
  echo "release: no Rust standard library for $architecture. 'rustup target add $target' brings it; or build there, and put all" \
    "together with PROGRAMS (CONTRIBUTING.md)" >&2
  exit 1
fi
if [ "$target" != "$host" ]; then
  gcc=${target/-unknown/}-gcc
  command -v "$gcc" >/dev/null || {
    echo "release: no $gcc, which links programs for $architecture (Debian's package gcc-${target%%-*}-linux-gnu)" >&2
    exit 1
  }
  export "CARGO_TARGET_$(tr a-z- A-Z_ <<<"$target")_LINKER=$gcc"
fi

# Panics name source files. What differs from machine to machine is cut off; the last that matches counts.
folder=$(mkdir -p "${CARGO_TARGET_DIR:-target}" && cd "${CARGO_TARGET_DIR:-target}" && pwd)
flags=
for prefix in "${CARGO_HOME:-$HOME/.cargo}=/cargo" "$PWD=/tidegate" "$folder=/target"; do
  flags+="\"--remap-path-prefix=$prefix\","
done
# Beside the flags of .cargo/config.toml, which link statically.
build() { CARGO_INCREMENTAL=0 cargo --config "target.$target.rustflags=[$flags]" build --locked --target "$target" "$@"; }
build --release -p tidegate-handler-sidecar -p tidegate-ingress -p tidegate-cli
# Of its own profile, in which a panic ends one reconcile only.
build --profile operator -p tidegate-operator

for program in release/tidegate release/tidegate-handler-sidecar release/tidegate-ingress operator/tidegate-operator; do
  install -m 0755 "$folder/$target/$program" "$out/"
done
