#!/usr/bin/env bash
# The handlers of docs/examples, each by a real `tidegate dev`: an event that it can handle is handled with its subject
# decoded, and one that it cannot becomes a dead letter. Fails if not.
#   TIDEGATE  the program tidegate, with the other two beside it
#   EXAMPLES  the folder with the Rust one; without it that one is left out
# Last line: handlers: N of N
set -euo pipefail
cd "$(dirname "$0")/.."
tidegate=$(realpath "${TIDEGATE:?the program tidegate}")
examples=$PWD/docs/examples
folder=$(mktemp -d)
export XDG_STATE_HOME=$folder/state
run=
end() {
  [ -z "$run" ] || { kill "$run" 2>/dev/null || true; wait "$run" 2>/dev/null || true; }
  run=
}
trap 'end; rm -rf "$folder"' EXIT

# A port that is free now: the examples listen on 8080 unless PORT says otherwise.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
until_line() { # text, log
  for _ in $(seq 300); do
    grep -qE "$1" "$2" && return
    kill -0 "$run" 2>/dev/null || break
    sleep 0.1
  done
  echo "no line like '$1' in:" >&2
  tail -n 30 "$2" >&2
  return 1
}

attempt() { # name, program…
  local name=$1 log=$folder/$1.log port began=$SECONDS
  shift
  port=$(free_port)
  mkdir "$folder/$name"
  cp "$examples/topic.yaml" "$folder/$name/"
  sed "s/8080/$port/" "$examples/handler.yaml" >"$folder/$name/handler.yaml"
  PORT=$port "$tidegate" dev "$folder/$name" -- "$@" >"$log" 2>&1 &
  run=$!
  until_line '^handler billing is ready' "$log"
  "$tidegate" send orders --type order.created --subject 'café 1%+' --data '{"amount": 42}' >/dev/null
  until_line 'handled [^ ]+ café 1%\+ \{"amount": ?42\}' "$log"
  "$tidegate" send orders --type order.created --data '' --attribute datacontenttype=application/json >/dev/null
  until_line ': 400 after .*DEAD LETTER' "$log"
  end
  echo "handler in $name: handled one event and refused one, in $((SECONDS - began)) s"
}

passed=0
try() { attempt "$@"; passed=$((passed + 1)); }
try python python3 "$examples/handler.py"
try node node "$examples/handler.mjs"
go build -o "$folder/handler-go" "$examples/handler.go"
try go "$folder/handler-go"
total=3
if [ -n "${EXAMPLES:-}" ]; then
  try rust "$EXAMPLES/handler"
  total=$((total + 1))
fi
# A JDK is not asked of those who build Tidegate.
if command -v javac >/dev/null; then
  javac -d "$folder/classes" "$examples/Handler.java"
  try java java -cp "$folder/classes" Handler
  total=$((total + 1))
else
  echo "handler in java: left out, there is no javac"
fi
echo "handlers: $passed of $total"
