#!/usr/bin/env bash
# A real API server judges what the chart renders and the examples: everything must be accepted, nothing is left behind.
# The examples need the CRDs. Where there are none, they are made for the check and removed again, so that Helm finds
# the cluster as it was; where there are some, they are brought up to date in a cluster of our own (CLUSTER=own) and left
# alone in somebody else's.
set -euo pipefail
cd "$(dirname "$0")/.."

crds() { "$KUBECTL" "$@" -f manifests/crds.yaml; }
if [ -z "$(crds get --ignore-not-found --output name)" ]; then
  trap 'crds delete --ignore-not-found >/dev/null' EXIT
  crds apply --server-side >/dev/null
elif [ "$CLUSTER" = own ]; then
  crds apply --server-side --force-conflicts --field-manager=helm >/dev/null
fi
crds wait --for=condition=Established --timeout=120s >/dev/null

# judge <namespace> <what> <command...>: with an empty namespace, every object names its own.
judge() {
  local namespace=$1 what=$2 answer
  shift 2
  if ! answer=$("$@" | "$KUBECTL" apply ${namespace:+--namespace "$namespace"} --dry-run=server --validate=strict -f - 2>&1); then
    echo "$what is not accepted:" >&2
    grep -v 'dry run' <<<"$answer" >&2
    return 1
  fi
}
# Hooks are made later than all else: `helm test` has a pod whose ServiceAccount is not there in a dry run, so it is judged with
# the one that each namespace has.
chart() { "$HELM" template tidegate charts/tidegate --namespace default --no-hooks "$@"; }
tests() {
  "$HELM" template tidegate charts/tidegate --namespace default --show-only templates/tests/test.yaml |
    sed 's/serviceAccountName: .*/serviceAccountName: default/'
}
judge "" "the chart" chart
judge "" "the chart's test" tests
judge "" "the aggregated API" chart --set api.enabled=true
judge "" "the dashboards" chart --set telemetry.prometheus.enabled=true,telemetry.prometheus.dashboards.enabled=true
# Its Namespace is not there: nothing is made. So it is judged as if it were for another one.
judge "" "install.yaml" sed 's/namespace: tidegate-system/namespace: default/' manifests/install.yaml
judge "" "the chart with other values" chart \
  --set replicas=2,defaultBroker.storage.size=50Gi,telemetry.otlpEndpoint=http://collector:4317,images.tag=dev,images.registry=localhost
judge "" "the chart for high availability" chart \
  --values charts/tidegate/values-ha.yaml
judge "" "the chart with marks, users of the platform and more objects" chart \
  --set commonLabels.team=red,commonAnnotations.owner=blue,podLabels.team=blue,podAnnotations.owner=red \
  --set podSecurityContext.runAsUser=null,podSecurityContext.runAsGroup=null,webhook.enabled=false,replicas=2 \
  --set-json 'extraObjects=[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"{{ .Release.Name }}-more"}}]'
for example in manifests/examples/*/*.yaml; do
  judge default "$example" cat "$example"
done
echo "manifests: ok"
