#!/usr/bin/env bash
# The CloudEvents SDKs for Python and JavaScript, and the common MQTT and NATS clients, against ingress and sidecar; and
# Knative's resolver (e2e/knative), against what the operator writes.
#
# Installs them into a cache outside of the checkout (what the lock files name, and nothing else), and runs the checks
# of both crates. Without them there is no check: this fails rather than skip.
#
#   NATS_SERVER, ETCD, KUBE_APISERVER  the servers' programs, as in every test
#   PROFILE      cargo's profile, "fast" if unset
#   TIDEGATE_CACHE  the folder of the cache, ~/.cache/tidegate if unset
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
profile=${PROFILE:-fast}
cache=${TIDEGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tidegate}

fail() {
  echo "e2e/sdk: $*" >&2
  exit 1
}

missing() {
  local tool
  for tool in python3 node npm go cargo; do command -v "$tool" >/dev/null || echo "$tool"; done
  python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}
if [[ -n $(missing) && $(id -u) = 0 ]] && command -v apt-get >/dev/null; then
  echo "e2e/sdk: installing Debian packages for:" $(missing) >&2
  apt-get install --yes --no-install-recommends python3 python3-venv nodejs npm >/dev/null || true
fi
[[ -z $(missing) ]] || fail "missing:" $(missing) "(Python >= 3.10 with venv, Node.js >= 18 with npm, Go and a Rust toolchain are needed)"

# What is installed belongs to exactly these lock files.
key=$(cat "$here/requirements.lock" "$here/package-lock.json" | sha256sum | cut -c1-16)
sdk=$cache/sdk-$key
if [[ ! -e $sdk/complete ]]; then
  echo "e2e/sdk: installing into $sdk" >&2
  rm -rf "$sdk"
  mkdir -p "$sdk"
  python3 -m venv "$sdk/python" || fail "python3 has no venv (Debian: python3-venv)"
  "$sdk/python/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$here/requirements.lock" ||
    fail "the Python packages of requirements.lock cannot be installed: is the package index reachable?"
  cp "$here/package.json" "$here/package-lock.json" "$sdk"
  npm --prefix "$sdk" ci --silent --ignore-scripts --no-audit --no-fund ||
    fail "the npm packages of package-lock.json cannot be installed: is the registry reachable?"
  touch "$sdk/complete"
fi
# Modules are found beside the script that imports them.
cp "$here"/*.py "$here"/*.mjs "$sdk"

export TIDEGATE_SDK=$sdk SDK_PYTHON=$sdk/python/bin/python
export CARGO_BUILD_TARGET=${CARGO_BUILD_TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
cd "$here/../.."
# The same selection of packages as all other tests, so that nothing is built again.
cargo test --workspace --profile "$profile" --locked --test ingress --test sidecar -- --ignored sdk
cargo test --workspace --profile "$profile" --locked --test api -- --ignored knative_resolves
