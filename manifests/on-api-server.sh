#!/usr/bin/env bash
# Runs a command with KUBECONFIG of an API server that is started for it, with an etcd, and ended after it. Nothing else of a
# cluster is there: objects are judged and stored, nothing runs.
#   ETCD=… KUBE_APISERVER=… KUBECTL=… manifests/on-api-server.sh <command...>
set -euo pipefail
work=$(mktemp -d)
processes=()
end() {
  # Nothing of theirs is kept; an API server that loses its etcd would wait for it instead of ending.
  kill -KILL "${processes[@]}" 2>/dev/null || true
  { wait; } 2>/dev/null
  rm -rf "$work"
}
trap end EXIT

# Three free ports, all held until each is known.
read -r client peer secure < <(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*[each.getsockname()[1] for each in held])')

"$ETCD" --data-dir "$work/etcd" --unsafe-no-fsync --listen-client-urls "http://127.0.0.1:$client" \
  --advertise-client-urls "http://127.0.0.1:$client" --listen-peer-urls "http://127.0.0.1:$peer" \
  --initial-advertise-peer-urls "http://127.0.0.1:$peer" --initial-cluster "default=http://127.0.0.1:$peer" >"$work/etcd.log" 2>&1 &
processes+=($!)
openssl genrsa -out "$work/accounts.key" 2048 2>/dev/null
token=$(openssl rand -hex 16)
echo "$token,check,check,system:masters" >"$work/tokens"
"$KUBE_APISERVER" --etcd-servers="http://127.0.0.1:$client" --bind-address=127.0.0.1 --secure-port="$secure" \
  --cert-dir="$work/certificates" --token-auth-file="$work/tokens" --authorization-mode=RBAC \
  --service-account-issuer=https://check.invalid --service-account-key-file="$work/accounts.key" \
  --service-account-signing-key-file="$work/accounts.key" --service-cluster-ip-range=10.96.0.0/24 \
  --disable-admission-plugins=ServiceAccount >"$work/server.log" 2>&1 &
processes+=($!)
export KUBECONFIG="$work/kubeconfig"
"$KUBECTL" config set-cluster check --server="https://127.0.0.1:$secure" --insecure-skip-tls-verify >/dev/null
"$KUBECTL" config set-credentials check --token="$token" >/dev/null
"$KUBECTL" config set-context check --cluster=check --user=check >/dev/null
"$KUBECTL" config use-context check >/dev/null
for _ in $(seq 120); do
  "$KUBECTL" get --raw /readyz >/dev/null 2>&1 && "$KUBECTL" get namespace default kube-system >/dev/null 2>&1 && break
  kill -0 "${processes[1]}" 2>/dev/null || break
  sleep 0.5
done
"$KUBECTL" get --raw /readyz >/dev/null 2>&1 || { tail -5 "$work/server.log" >&2; exit 1; }
"$@"
