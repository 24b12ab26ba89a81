#!/usr/bin/env bash
# Installs (or upgrades) the chart with the local images onto the current KUBECONFIG, and a collector to look at.
set -euo pipefail
cd "$(dirname "$0")/.."

"$KUBECTL" apply --server-side -f e2e/manifests/collector.yaml >/dev/null
"$HELM" upgrade --install tidegate charts/tidegate --namespace "$NAMESPACE" --create-namespace \
  --values e2e/manifests/values.yaml --wait --timeout 300s >/dev/null || {
  echo "the chart did not become ready:" >&2
  "$KUBECTL" --namespace "$NAMESPACE" get pods,events >&2 || true
  "$KUBECTL" --namespace "$NAMESPACE" logs --selector app.kubernetes.io/component=operator --tail=30 >&2 || true
  exit 1
}
# The tag is always the same: a rebuilt image needs new pods.
"$KUBECTL" --namespace "$NAMESPACE" rollout restart deployment --selector app.kubernetes.io/component=operator >/dev/null
"$KUBECTL" --namespace "$NAMESPACE" rollout status deployment --selector app.kubernetes.io/component=operator --timeout=300s
