#!/usr/bin/env bash
# Checks the chart without a cluster: it lints, it renders what it should, and its schema refuses what is wrong.
# HELM names the program (default: helm). Prints what failed; ends with 0 only if nothing did.
set -uo pipefail

chart=${1:-$(dirname "$0")/tidegate}
helm=${HELM:-helm}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

fail() {
  echo "chart: $1"
  failed=1
}

render() {
  "$helm" template tidegate "$chart" --namespace tidegate-system "$@" 2>&1
}

# renders <pattern> <what> <helm arguments...>: the output contains the pattern.
renders() {
  local pattern=$1 what=$2
  shift 2
  if ! render "$@" >"$work/out"; then
    fail "$what: $(tail -1 "$work/out")"
  elif ! grep -qE -- "$pattern" "$work/out"; then
    fail "$what: nothing matches $pattern"
  fi
}

# lacks <pattern> <what> <helm arguments...>: it renders, and the output does not contain the pattern.
lacks() {
  local pattern=$1 what=$2
  shift 2
  if ! render "$@" >"$work/out"; then
    fail "$what: $(tail -1 "$work/out")"
  elif grep -qE -- "$pattern" "$work/out"; then
    fail "$what: $(grep -m1 -E -- "$pattern" "$work/out")"
  fi
}

# refuses <path> <helm arguments...>: the schema names this value and nothing is rendered.
refuses() {
  local path=$1
  shift
  if render "$@" >"$work/out"; then
    fail "accepted $*"
  elif ! grep -qF -- "$path" "$work/out"; then
    fail "refused $* without naming $path: $(tail -2 "$work/out")"
  fi
}

"$helm" lint --strict --quiet "$chart" >"$work/lint" 2>&1 || fail "lint: $(cat "$work/lint")"

renders 'image: localhost/tidegate/operator:0\.1\.0' 'default image, which nobody else can own'
renders 'image: ghcr\.test/acme/tidegate/operator:0\.1\.0' 'registry with a path' --set images.registry=ghcr.test/acme
renders 'value: "nats:2\.15\.2"' 'default broker image'
renders 'value: "nats:2\.15\.2"' 'broker image beside images in a registry of ours' --set images.registry=registry.test
renders 'value: "\{\\"limits\\":\{\\"memory\\":\\"64Mi\\"\}' 'resources of sidecars' --set sidecar.resources.limits.memory=64Mi
refuses 'sidecar' --set sidecar.resource.limits.memory=64Mi
renders 'value: "\{\\"replicas\\":3\}"' 'default broker' --set defaultBroker.replicas=3
refuses 'defaultBroker' --set defaultBroker=3
renders 'image: localhost/tidegate/operator:dev' 'local image' --set images.registry=localhost --set images.tag=dev
renders 'value: "mirror\.test/x/sidecar:2"' 'own registry and tag' --set images.registry=localhost \
  --set images.sidecar.registry=mirror.test,images.sidecar.repository=x/sidecar --set-string images.sidecar.tag=2
renders "tidegate/operator@sha256:$(printf 'a%.0s' {1..64})" 'digest' \
  --set "images.operator.digest=sha256:$(printf 'a%.0s' {1..64})"
renders 'name: OTEL_EXPORTER_OTLP_ENDPOINT' 'endpoint' --set telemetry.otlpEndpoint=http://collector:4317
lacks 'OTEL_EXPORTER_OTLP_ENDPOINT' 'no endpoint'
lacks 'OTEL_METRICS_EXPORTER|METRICS_FROM|PodMonitor' 'no Prometheus'
prometheus=(--set telemetry.prometheus.enabled=true)
monitoring='telemetry.prometheus.from[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name=monitoring'
renders 'value: otlp,prometheus' 'metrics for Prometheus' "${prometheus[@]}"
renders 'value: "\[\]"' 'scrapers nobody named' "${prometheus[@]}"
renders 'kubernetes.io/metadata.name\\":\\"monitoring' 'scrapers' "${prometheus[@]}" --set "$monitoring"
lacks 'PodMonitor' 'PodMonitors nobody asked for' "${prometheus[@]}"
for port in admin tidegate; do
  renders "port: $port\$" "PodMonitor of port $port" "${prometheus[@]}" --set telemetry.prometheus.podMonitor.enabled=true
done
renders 'release: kube' 'label of PodMonitors' "${prometheus[@]}" \
  --set telemetry.prometheus.podMonitor.enabled=true,telemetry.prometheus.podMonitor.labels.release=kube
lacks 'PrometheusRule' 'alerts nobody asked for' "${prometheus[@]}"
for part in 'kind: PrometheusRule' 'alert: TidegateOperatorDown' 'release: kube'; do
  renders "$part" 'alerts' "${prometheus[@]}" \
    --set telemetry.prometheus.rules.enabled=true,telemetry.prometheus.rules.labels.release=kube
done
refuses telemetry.prometheus.enabled --set telemetry.prometheus.podMonitor.enabled=true
refuses telemetry.prometheus.enabled --set telemetry.prometheus.rules.enabled=true
lacks 'grafana' 'dashboards nobody asked for' "${prometheus[@]}"
dashboards=("${prometheus[@]}" --set telemetry.prometheus.dashboards.enabled=true)
for part in 'grafana_dashboard: "1"' 'grafana_folder: Events' 'team: red'; do
  renders "$part" 'dashboards' "${dashboards[@]}" --set telemetry.prometheus.dashboards.annotations.grafana_folder=Events \
    --set telemetry.prometheus.dashboards.labels.team=red
done
for dashboard in topics handlers brokers operator; do
  renders "^  name: tidegate-dashboard-$dashboard\$" "dashboard $dashboard" "${dashboards[@]}"
  renders "^    *\"uid\": \"tidegate-$dashboard\"" "dashboard $dashboard as it is" "${dashboards[@]}"
done
refuses telemetry.prometheus.enabled --set telemetry.prometheus.dashboards.enabled=true
refuses labels --set telemetry.prometheus.dashboards.labels.grafana_dashboard=1
refuses interval --set telemetry.prometheus.podMonitor.interval=soon
refuses from --set 'telemetry.prometheus.from[0].everybody=true'
renders 'kind: PodDisruptionBudget' 'disruption budget of two' --set replicas=2
lacks 'kind: PodDisruptionBudget' 'disruption budget of one'
lacks 'kind: NetworkPolicy' 'network policy switched off' --set networkPolicy.enabled=false
renders 'kind: ValidatingWebhookConfiguration' 'webhook'
lacks 'webhook' 'webhook switched off' --set webhook.enabled=false
renders 'duck.knative.dev/addressable: "true"' 'role of Knative'
lacks 'aggregate-to' 'user roles switched off' --set rbac.aggregate=false
lacks 'kind: CustomResourceDefinition' 'definitions switched off' --set crds.install=false
renders 'name: eventbrokers\.tidegate\.io' 'definition of EventBroker'
renders 'name: eventtopics\.tidegate\.io' 'definition of EventTopic'
renders 'name: eventhandlers\.tidegate\.io' 'definition of EventHandler'
for setting in 'runAsNonRoot: true' 'readOnlyRootFilesystem: true' 'allowPrivilegeEscalation: false' 'type: RuntimeDefault'; do
  renders "$setting" 'security context'
done

# What other people's clusters ask for.
lacks 'runAsUser|runAsGroup' 'users that the platform assigns' --set podSecurityContext.runAsUser=null,podSecurityContext.runAsGroup=null
renders 'fsGroup: 7' 'security context of the pod' --set podSecurityContext.fsGroup=7
refuses securityContext --set securityContext=none
pod_user() { grep -A2 'name: TIDEGATE_POD_USER' "$work/out" | grep -o 'value:.*'; }
printf 'pods: {user: 1000680000}\n' >"$work/user.yaml"
render --values "$work/user.yaml" >"$work/out"
[ "$(pod_user)" = 'value: "1000680000"' ] || fail "a large user of a values file is written $(pod_user)"
render --set pods.user=assigned >"$work/out"
[ "$(pod_user)" = 'value: "assigned"' ] || fail "an assigned user is written $(pod_user)"
refuses 'pods' --set pods.user=0
refuses 'pods' --set pods.user=nobody
refuses 'pods' --set 'pods.pullSecrets[0].name=One\,Two'
renders 'value: one,two' 'pull secrets of pods' --set 'pods.pullSecrets[0].name=one,pods.pullSecrets[1].name=two'
lacks 'TIDEGATE_POD_PULL_SECRETS' 'no pull secrets of pods'
render --set commonLabels.team=red,commonAnnotations.owner=blue --set 'commonLabels.app\.kubernetes\.io/name=other' >"$work/out"
objects=$(grep -c '^kind: ' "$work/out")
for mark in '^    team: red' '^    owner: blue'; do
  marked=$(grep -cE "$mark" "$work/out")
  [ "$marked" = "$objects" ] || fail "of $objects objects $marked have $mark"
done
lacks 'name: other' 'a label of the chart replaced' --set 'commonLabels.app\.kubernetes\.io/name=other'
# By these labels Tidegate selects the pods of handlers and brokers.
refuses podLabels --set 'podLabels.tidegate\.io/handler=billing'
refuses commonLabels --set 'commonLabels.tidegate\.io/broker=default'
lacks 'component: other' 'a label of the selector replaced' --set 'podLabels.app\.kubernetes\.io/component=other'
renders '^  name: tidegate-more' 'more objects, as text' \
  --set-json 'extraObjects=["kind: ConfigMap\napiVersion: v1\nmetadata:\n  name: {{ .Release.Name }}-more\n"]'
renders "^  name: '?tidegate-more" 'more objects' \
  --set-json 'extraObjects=[{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"{{ .Release.Name }}-more"}}]'
lacks 'APIService|subjectaccessreviews' 'the aggregated API by default'
for part in 'kind: APIService' 'name: tidegate-data-reader' 'extension-apiserver-authentication-reader' 'subjectaccessreviews'; do
  renders "$part" 'aggregated API' --set api.enabled=true
done
# The roles view, edit and admin have events and dead letters where somebody says so.
data_for_viewers() {
  render --set api.enabled=true "$@" >"$work/out"
  awk '/^---$/ { name = "" } /^  name: / { name = $2 } /aggregate-to-view/ && name ~ /-data-/' "$work/out"
}
[ -z "$(data_for_viewers)" ] || fail 'viewers may read the data although nobody said so'
[ -n "$(data_for_viewers --set rbac.aggregateData=true)" ] || fail 'viewers may not read the data although somebody said so'
refuses enabled --set-string api.enabled=maybe
renders 'containerPort: 8443' 'aggregated API without webhook' --set api.enabled=true,webhook.enabled=false
marked=$(render --set api.enabled=true,telemetry.prometheus.enabled=true,telemetry.prometheus.podMonitor.enabled=true \
  --set telemetry.prometheus.rules.enabled=true,telemetry.prometheus.dashboards.enabled=true --set commonAnnotations.owner=blue | tee "$work/out" | grep -c '^    owner: blue')
objects=$(grep -c '^kind: ' "$work/out")
[ "$marked" = "$objects" ] || fail "with everything on, of $objects objects $marked have an annotation of all"
renders 'kind: PodDisruptionBudget' 'high availability' --values "$chart/values-ha.yaml"

render >"$work/out"
definitions=$(grep -c '^kind: CustomResourceDefinition' "$work/out")
kept=$(grep -c 'helm.sh/resource-policy: keep' "$work/out")
[ "$definitions" = "$kept" ] || fail "$definitions definitions, but $kept are kept at uninstall"
lacks 'resources: .*\*|verbs: .*\*|apiGroups: .*\*' 'a right without bounds'

# Without Helm: nothing says that Helm owns it, and its namespace comes first.
HELM=$helm "$(dirname "$0")/../manifests/install.sh" >"$work/install" || fail 'install.yaml'
grep -E 'helm\.sh/|managed-by|resource-policy' "$work/install" && fail 'install.yaml has marks of Helm'
[ "$(grep -m1 '^kind: ' "$work/install")" = 'kind: Namespace' ] || fail 'install.yaml begins without its namespace'
objects=$(render --skip-tests | grep -c '^kind: ')
[ "$(grep -c '^kind: ' "$work/install")" = "$((objects + 1))" ] || fail 'install.yaml lacks objects of the chart'

# `helm test`: no part of what the operator's Service, its policies and its Deployment select.
renders '^    - --admission' 'a test of the webhook'
lacks '^    - --admission' 'a test where there is no webhook' --set webhook.enabled=false
render --show-only templates/tests/test.yaml >"$work/out"
[ "$(grep -c 'helm.sh/hook: test' "$work/out")" = "$(grep -c '^kind: ' "$work/out")" ] || fail 'an object of the test is none of a hook'
grep -q 'component: operator' "$work/out" && fail 'the test is taken for an operator'

refuses replicas --set replicas=-1
refuses replicas --set-string replicas=two
refuses pullPolicy --set images.pullPolicy=Sometimes
refuses digest --set images.broker.digest=sha256:short
refuses repository --set images.sidecar.repository=
refuses otlpEndpoint --set telemetry.otlpEndpoint=collector:4317
refuses otlpEndpoint --set telemetry.otlpEndpoint=https://collector:4317
refuses watchNamespaces --set watchNamespaces=x
refuses install --set-string crds.install=maybe
refuses enabled --set-string webhook.enabled=maybe
refuses logLevel --set logLevel=

# What artifacthub.io shows are the definitions that there are.
for definition in "$chart"/files/crds/*.yaml; do
  name=$(basename "$definition" .yaml).tidegate.io
  grep -q "^      name: $name$" "$chart/Chart.yaml" || fail "Chart.yaml does not tell artifacthub.io of $name"
done

# The page that an alert names has the section.
page="$(dirname "$chart")/../docs/troubleshooting.md"
sections=$(sed -n 's/^## //p' "$page" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9\n-')
for section in $(sed -n 's/.*runbook_url: .*#//p' "$chart/files/prometheus/rules.yaml"); do
  grep -qxF -- "$section" <<<"$sections" || fail "an alert names the section $section, which $page does not have"
done

# Dashboards and alerts use what the programs export.
"$(dirname "$0")/dashboards.py" check >"$work/out" || fail "dashboards: $(cat "$work/out")"

# Every right says why.
awk '/^- apiGroups/ && previous !~ /^#/ { print FILENAME ":" FNR; bad = 1 } { previous = $0 } END { exit bad }' \
  "$chart"/templates/*role*.yaml "$chart"/templates/tests/*.yaml >"$work/rights" || fail "rights without a reason: $(cat "$work/rights")"

[ "$failed" = 0 ] && echo "chart: ok"
exit "$failed"
