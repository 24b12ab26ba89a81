#!/usr/bin/env bash
# A real API server judges what the chart renders and the examples: everything must be accepted, nothing is made
# (but for the CRDs, without which it could not judge the examples).
set -euo pipefail
cd "$(dirname "$0")/.."

"$KUBECTL" apply --server-side --force-conflicts --field-manager=helm -f manifests/crds.yaml >/dev/null
"$KUBECTL" wait --for=condition=Established --timeout=30s -f manifests/crds.yaml >/dev/null
judge() {
  local what=$1 answer
  shift
  if ! answer=$("$@" | "$KUBECTL" apply --namespace default --dry-run=server --validate=strict -f - 2>&1); then
    echo "$what is not accepted:" >&2
    grep -v 'dry run' <<<"$answer" >&2
    return 1
  fi
}
judge "the chart" "$HELM" template tidegate charts/tidegate --namespace default
judge "the chart with other values" "$HELM" template tidegate charts/tidegate --namespace default \
  --set replicas=2,telemetry.otlpEndpoint=http://collector:4317,images.tag=dev,images.registry=localhost
for example in manifests/examples/*/*.yaml; do
  judge "$example" cat "$example"
done
echo "manifests: ok"
