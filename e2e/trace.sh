#!/usr/bin/env bash
# One event's spans, from the collector's log on the current KUBECONFIG: publish (ingress) and process (sidecar).
set -euo pipefail
kubectl --namespace tidegate-telemetry logs deployment/collector --since=300s | awk '
  length($3) != 32 {next}
  $1 == "publish" {publish[$3] = $4 "  publish " $2}
  $1 == "process" {process[$3] = $4 "  process " $2}
  $1 ~ /^(publish|process)$/ && publish[$3] && process[$3] {trace = $3}
  END {
    if (!trace) exit 1
    print "  trace " trace "  span " publish[trace]
    print "  trace " trace "  span " process[trace]
  }'
