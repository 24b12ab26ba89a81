#!/usr/bin/env bash
# One event's spans, from the collector's log on the current KUBECONFIG: publish (ingress) and process (sidecar).
set -euo pipefail
log=$(kubectl --namespace tidegate-telemetry logs deployment/collector --tail=4000)
trace=$(awk '$1 == "process" && length($3) == 32 {trace = $3} END {print trace}' <<<"$log")
[ -n "$trace" ]
awk -v trace="$trace" '$3 == trace {print "  trace " $3 "  span " $4 "  " $1 " " $2}' <<<"$log"
