#!/usr/bin/env bash
# Figures of the running product on the current KUBECONFIG: one line each, bench<TAB>name<TAB>value<TAB>target.
# Needs kubectl on PATH; what cannot be measured here (memory, on a cluster that is not our own) is said on stderr.
set -euo pipefail
cd "$(dirname "$0")/.."
images=${IMAGES:-target/images}
namespace=tidegate-bench
example=manifests/examples/temperature

row() { printf 'bench\t%s\t%s\t%s\n' "$1" "$2" "$3"; }
in_bench() { kubectl --namespace "$namespace" "$@"; }
since() { awk -v from="$1" -v to="$(date +%s.%N)" 'BEGIN {printf "%.1f", to - from}'; }
megabytes() { awk -v bytes="$(stat -c %s "$1")" 'BEGIN {printf "%.1f", bytes / 1e6}'; }
# Resident memory of the one process of that name on this machine, in MB.
resident() { ps -eo rss=,args= | awk -v name="/bin/$1" '$2 == name && (!least || $1 < least) {least = $1} END {if (least) printf "%.1f", least * 1024 / 1e6}'; }

kubectl delete namespace "$namespace" --ignore-not-found --wait --timeout=180s >/dev/null
kubectl create namespace "$namespace" >/dev/null
trap 'kubectl delete namespace "$namespace" --wait=false >/dev/null' EXIT

row sidecar-image-mb "$(megabytes "$images/sidecar.tar")" "<= 20"
row operator-image-mb "$(megabytes "$images/operator.tar")" "<= 40"

began=$(date +%s.%N)
in_bench apply -f "$example/topic.yaml" >/dev/null
until in_bench get pod default-broker-0 -o jsonpath='{.status.containerStatuses[0].state.running}' 2>/dev/null | grep -q started; do sleep 0.1; done
row topic-apply-to-broker-running-s "$(since "$began")" "reported"
in_bench wait --for=condition=Ready eventtopic/temperature --timeout=180s >/dev/null
row topic-apply-to-ready-s "$(since "$began")" "reported"

# Published the moment the handler's place in the topic exists, so that its pod finds an event waiting.
began=$(date +%s.%N)
in_bench apply -f "$example/handler.yaml" >/dev/null
in_bench wait --for=condition=Subscribed eventhandler/printer --timeout=60s >/dev/null
row handler-apply-to-subscribed-s "$(since "$began")" "reported"
sed -e 's/value: "1000"/value: "1"/' -e "s|eventtopic/default/|eventtopic/$namespace/|" "$example/sensor.yaml" | in_bench apply -f - >/dev/null
until in_bench logs --selector tidegate.io/handler=printer --container printer --tail=-1 2>/dev/null | grep -q value; do sleep 0.1; done
row handler-apply-to-first-delivery-s "$(since "$began")" "reported"

sleep 5
for program in tidegate-handler-sidecar tidegate-ingress tidegate-operator; do
  memory=$(resident "$program")
  case $program in
    tidegate-handler-sidecar) target="<= 12" ;;
    *) target="reported" ;;
  esac
  if [ -n "$memory" ]; then row "$program-rss-idle-mb" "$memory" "$target"; else echo "no process $program on this machine: memory not measured" >&2; fi
done

# What topics without handlers cost on one broker: processes of its pod, found by the pod's uid in their cgroup.
processes() { # uid program
  for group in /proc/[0-9]*/cgroup; do
    pid=${group#/proc/}; pid=${pid%/cgroup}
    grep -q "$1" "$group" 2>/dev/null && [ "$(basename "$(readlink "/proc/$pid/exe" 2>/dev/null)")" = "$2" ] && echo "$pid"
  done
  true
}
memory_of() { awk '/^VmRSS/ {printf "%.1f", $2 * 1024 / 1e6}' "/proc/$1/status"; }
ticks_of() { awk '{print $14 + $15}' "/proc/$1/stat"; }
topics() { # from to
  for number in $(seq "$1" "$2"); do
    printf -- '---\napiVersion: tidegate.io/v1alpha1\nkind: EventTopic\nmetadata: {name: t%s}\n' "$number"
    printf 'spec: {broker: {name: shared}, retention: {maxSize: 64Mi}, deletionPolicy: Delete}\n'
  done
}
in_bench apply -f - >/dev/null <<'YAML'
apiVersion: tidegate.io/v1alpha1
kind: EventBroker
metadata: {name: shared}
spec: {replicas: 1, storage: {size: 16Gi}}
YAML
last=0
for count in 1 10 100; do
  began=$(date +%s.%N)
  topics $((last + 1)) "$count" | in_bench apply -f - >/dev/null
  last=$count
  in_bench wait --for=condition=Ready eventtopic --all --timeout=300s >/dev/null
  row "topics-$count-apply-to-ready-s" "$(since "$began")" "reported"
  row "topics-$count-broker-pods" "$(in_bench get pods -l tidegate.io/broker=shared -o name | wc -l)" "1"
  uid=$(in_bench get pod shared-broker-0 -o jsonpath='{.metadata.uid}')
  sleep 60
  for program in nats-server tidegate-ingress; do
    pid=$(processes "$uid" "$program" | head -1)
    if [ -z "$pid" ]; then echo "no process $program of this broker on this machine: not measured" >&2; continue; fi
    before=$(ticks_of "$pid")
    sleep 60
    row "topics-$count-$program-rss-mb" "$(memory_of "$pid")" "reported"
    row "topics-$count-$program-idle-cpu-percent" \
      "$(awk -v ticks=$(($(ticks_of "$pid") - before)) -v hz="$(getconf CLK_TCK)" 'BEGIN {printf "%.2f", ticks / hz / 60 * 100}')" "reported"
  done
done
