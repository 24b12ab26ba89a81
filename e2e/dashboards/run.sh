#!/usr/bin/env bash
# The chart's dashboards and alerts by a real Prometheus that scrapes real programs: an ingress and a sidecar of `tidegate dev`,
# to which events are published that are stored, refused, retried, dead-lettered and filtered, and an operator on an API server.
# Every panel's query must have an answer, every alert must be evaluated, and those that are provoked must be pending.
#
# No broker of the operator runs here. What it says of brokers and topics is what their status says: the status is written by this
# script, into resources that are paused; the series are the operator's own. What it learns from a running broker (UNSEEN below) is
# not asked here: `charts/dashboards.py check` judges its names by the code.
#
#   NATS_SERVER=… ETCD=… KUBE_APISERVER=… KUBECTL=… TIDEGATE=… [PROMETHEUS=…] [PROMTOOL=…] \
#     manifests/on-api-server.sh e2e/dashboards/run.sh
#     TIDEGATE    the program tidegate, with the operator, the ingress and the sidecar beside it
#     PROMETHEUS, PROMTOOL  the programs prometheus and promtool (Debian: in the package prometheus); default: those on PATH
# Last line: dashboards: ok
set -euo pipefail
cd "$(dirname "$0")/../.."
# find_program <name> <program>
find_program() {
  command -v "$2" || {
    echo "missing: $1. Install it (Debian: both are in the package prometheus), or name the program by ${1^^}=" >&2
    return 1
  }
}
prometheus=$(find_program prometheus "${PROMETHEUS:-prometheus}")
promtool=$(find_program promtool "${PROMTOOL:-promtool}")
: "${NATS_SERVER:?the program nats-server}" "${KUBECTL:?the program kubectl}" "${KUBECONFIG:?run this by manifests/on-api-server.sh}"
tidegate=$(realpath "${TIDEGATE:?the program tidegate}")
programs=$(dirname "$tidegate")
UNSEEN=(tidegate_handler_lag tidegate_handler_keys tidegate_handler_retries tidegate_handler_scalings_total tidegate_broker_audits_total)
PROVOKED=(TidegateTopicFilling TidegateTopicNotReady TidegateDeadLetters TidegateHandlerRefusing TidegateBrokerWithoutQuorum
  TidegateBrokerServerMissing)

work=$(mktemp -d)
processes=()
end() {
  [ "${#processes[@]}" = 0 ] || kill "${processes[@]}" 2>/dev/null || true
  { wait; } 2>/dev/null
  rm -rf "$work"
}
trap end EXIT
say() { printf '%3ds  %s\n' "$SECONDS" "$*"; }
die() {
  echo "$1" >&2
  tail -n 20 "$work"/*.log >&2
  exit 1
}
# until_done <seconds> <what> <command...>
until_done() {
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || die "it took too long until $what"
    sleep 0.2
  done
}
read -r operator_port prometheus_port handler_port http_port < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*[each.getsockname()[1] for each in held])')
printf '"%120000s"' x >"$work/large"
mkdir "$work/targets" "$work/programs" "$work/files"
# What a PodMonitor adds: namespace and pod.
target() { # name, port, namespace
  printf '[{"targets": ["127.0.0.1:%s"], "labels": {"namespace": "%s", "pod": "%s", "job": "%s"}}]\n' "$2" "$3" "$1" "$1" >"$work/targets/$1.new"
  mv "$work/targets/$1.new" "$work/targets/$1.json"
}

# --- the operator ---
kubectl() { "$KUBECTL" --namespace default "$@"; }
kubectl apply --server-side -f manifests/crds.yaml >/dev/null
kubectl wait --for=condition=Established --timeout=60s -f manifests/crds.yaml >/dev/null
OTEL_METRICS_EXPORTER=prometheus "$programs/tidegate-operator" --sidecar-image registry.test/sidecar:1 --ingress-image registry.test/ingress:1 \
  --broker-image registry.test/nats-server:1 --pod-name operator-0 --pod-namespace default --admin-port "$operator_port" >"$work/operator.log" 2>&1 &
processes+=($!)
metrics() { curl --silent --fail "http://127.0.0.1:$operator_port/metrics"; }
has_metric() { metrics | grep -q "^$1"; }
# The broker is called dev by `tidegate dev`. Another one cannot be made, because its Service is somebody else's.
kubectl create service clusterip taken-broker --tcp=80 >/dev/null
kubectl apply -f - >/dev/null <<'Y'
apiVersion: tidegate.io/v1alpha1
kind: EventBroker
metadata: {name: dev}
spec: {replicas: 1}
---
apiVersion: tidegate.io/v1alpha1
kind: EventBroker
metadata: {name: taken}
spec: {replicas: 1}
Y
kubectl apply -f e2e/dashboards/resources.yaml >/dev/null
until_done 60 "the operator has reconciled the handler" has_metric 'tidegate_handler_ready{.*billing'
until_done 60 "the broker's certificates are made" has_metric tidegate_broker_certificates_expire_seconds
kubectl annotate eventtopics/orders eventtopics/small eventbrokers/dev tidegate.io/paused=true >/dev/null
until_done 30 "the topics are paused" kubectl wait --for=condition=Ready=False --timeout=1s eventtopics --all
kubectl patch eventtopic orders --subresource=status --type=merge \
  --patch '{"status": {"events": 700, "bytes": 9000000, "fill": "85%", "promised": 12000000, "deadLetters": 2}}' >/dev/null
kubectl patch eventbroker dev --subresource=status --type=merge --patch '{"status": {"readyReplicas": 0, "groups": {"used": 5, "usage": "1%"},
  "storage": {"promised": "50%", "promisedBytes": 500, "usableBytes": 1000}}}' >/dev/null
until_done 30 "the operator exports what the status says" has_metric 'tidegate_topic_fill_ratio{.*orders.* 0.85'
target operator "$operator_port" tidegate-system
say "the operator exports $(metrics | grep -c '^[a-z]') series"

# --- ingress and sidecar ---
# `tidegate dev` gives its programs an environment of their own; these switch their metrics on, and say where they are.
for program in tidegate-ingress tidegate-handler-sidecar; do
  printf '#!/bin/sh\nprintf %%s "$TIDEGATE_CONFIG" >"%s/%s.config"\nOTEL_METRICS_EXPORTER=prometheus exec "%s" "$@"\n' \
    "$work" "$program" "$programs/$program" >"$work/programs/$program"
  chmod +x "$work/programs/$program"
done
port_of() { sed -n "s/.*\"$2\":\([0-9]*\).*/\1/p" "$work/$1.config"; }
sed "s/8080/$handler_port/" e2e/dashboards/resources.yaml >"$work/files/resources.yaml"
export XDG_STATE_HOME=$work/state
PORT=$handler_port "$tidegate" dev "$work/files" --programs "$work/programs" --http="$http_port" -- python3 e2e/dashboards/handler.py >"$work/dev.log" 2>&1 &
processes+=($!)
until_done 60 "the handler is ready" grep -q '^handler billing is ready' "$work/dev.log"
target ingress "$(port_of tidegate-ingress adminPort)" default
target sidecar "$(port_of tidegate-handler-sidecar adminPort)" default
say "tidegate dev is ready"

# --- Prometheus ---
cat >"$work/prometheus.yaml" <<Y
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [$PWD/charts/tidegate/files/prometheus/rules.yaml]
scrape_configs:
- job_name: tidegate
  file_sd_configs: [{files: ["$work/targets/*.json"]}]
Y
"$promtool" check config "$work/prometheus.yaml" >"$work/promtool.log" 2>&1 || die "promtool refuses the configuration or the rules"
"$prometheus" --config.file="$work/prometheus.yaml" --storage.tsdb.path="$work/prometheus" --web.listen-address="127.0.0.1:$prometheus_port" \
  >"$work/prometheus.log" 2>&1 &
processes+=($!)
until_done 60 "Prometheus is ready" curl --silent --fail "http://127.0.0.1:$prometheus_port/-/ready"

# --- events ---
post() { # topic, type, data
  curl --silent --output /dev/null "http://127.0.0.1:$http_port/$1" --header "ce-specversion: 1.0" --header "ce-id: $RANDOM$RANDOM$RANDOM" \
    --header "ce-source: /check" --header "ce-type: $2" --header "content-type: application/json" --data "$3"
}
# A connection over MQTT that names no topic, and one of no publisher.
mqtt() {
  python3 - "$(port_of tidegate-ingress mqttPort)" <<'P'
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
with context.wrap_socket(socket.create_connection(("127.0.0.1", int(sys.argv[1]))), server_hostname="localhost") as stream:
    stream.sendall(bytes([0x10, 14, 0, 4]) + b"MQTT" + bytes([4, 2, 0, 60, 0, 2]) + b"me")
    stream.recv(16)
P
}
publish() {
  for type in created created created busy wrong ignored odd; do post orders "order.$type" '{}'; done
  for _ in 1 2 3 4; do post small order.created "@$work/large"; done
  # Refused: no CloudEvent.
  curl --silent --output /dev/null "http://127.0.0.1:$http_port/orders" --header 'content-type: application/json' --data '{}'
  mqtt
  # The operator has something to do.
  kubectl annotate eventhandlers/billing eventbrokers/taken --overwrite "check=$RANDOM$RANDOM" >/dev/null
}
for round in 1 2 3 4 5; do
  publish
  say "round $round of events is published"
  sleep 2
done

# --- the questions ---
ask() {
  charts/dashboards.py ask "http://127.0.0.1:$prometheus_port" "${UNSEEN[@]/#/--unseen=}" "${PROVOKED[@]/#/--firing=}" >"$work/asked"
}
deadline=$((SECONDS + 60))
until ask; do
  [ "$SECONDS" -lt "$deadline" ] || { cat "$work/asked" >&2; die "the dashboards do not show what they should"; }
  publish
  sleep 2
done
cat "$work/asked"
echo "dashboards: ok"
