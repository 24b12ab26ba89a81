#!/usr/bin/env bash
# The main job on the current KUBECONFIG: a topic, a handler, 1000 events over HTTPS, every one delivered.
# Last line: demo: N published, N delivered, N lost
set -euo pipefail
cd "$(dirname "$0")/.."
namespace=tidegate-demo
events=1000
example=manifests/examples/temperature
began=$SECONDS

say() { printf '%3ds  %s\n' $((SECONDS - began)) "$*"; }
in_demo() { kubectl --namespace "$namespace" "$@"; }
explain() {
  echo "the demo failed; this is what there is:" >&2
  in_demo get eventbrokers,eventtopics,eventhandlers,pods,jobs,events >&2 || true
  in_demo get eventbrokers,eventtopics,eventhandlers -o jsonpath='{range .items[*]}{.kind} {.metadata.name}: {range .status.conditions[*]}{.type}={.status} {.message}{"; "}{end}{"\n"}{end}' >&2 || true
}
trap explain ERR

say "a fresh namespace $namespace"
kubectl delete namespace "$namespace" --ignore-not-found --wait --timeout=300s >/dev/null
kubectl create namespace "$namespace" >/dev/null
kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted >/dev/null

say "kubectl apply: EventTopic temperature, EventHandler printer"
in_demo apply -f "$example/topic.yaml" -f "$example/handler.yaml" >/dev/null
in_demo wait --for=condition=Ready eventtopic/temperature --timeout=300s >/dev/null
say "the topic is ready: $(in_demo get eventtopic temperature -o jsonpath='{.status.address.url}')"
in_demo wait --for=condition=Ready eventhandler/printer --timeout=300s >/dev/null
say "the handler is ready"

say "a sensor publishes $events events"
audience=$(in_demo get eventtopic temperature -o jsonpath='{.status.address.audience}')
sed "s|tidegate.io/eventtopic/default/temperature|$audience|" "$example/sensor.yaml" | in_demo apply -f - >/dev/null
in_demo wait --for=condition=Complete job/sensor --timeout=300s >/dev/null
published=$(in_demo logs job/sensor | sed -n 's/^published //p')
say "published: ${published:-0}"

# The printer writes a line for each event it received, which begins with the event's id.
received() { in_demo logs --selector tidegate.io/handler=printer --container printer --tail=-1 --prefix=false | awk 'NF > 1 {print $1}'; }
for _ in $(seq 180); do
  delivered=$(received | sort -u | wc -l)
  [ "$delivered" -lt "${published:-0}" ] || break
  sleep 1
done
repeated=$(($(received | wc -l) - delivered))
say "delivered: $delivered, delivered more than once: $repeated"

in_demo get eventbrokers,eventtopics,eventhandlers
if trace=$(e2e/trace.sh 2>/dev/null); then
  echo "one event's way, as the OpenTelemetry Collector saw it:"
  echo "$trace"
fi
trap - ERR
lost=$((${published:-0} - delivered))
echo "demo: ${published:-0} published, $delivered delivered, $lost lost"
[ "${published:-0}" -eq "$events" ] && [ "$lost" -eq 0 ]
