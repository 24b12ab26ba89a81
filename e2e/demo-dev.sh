#!/usr/bin/env bash
# The main job on this machine, without a cluster: the temperature example by `tidegate dev`, stored (routing: Queued) and
# passed on at once (routing: Direct). The two programs of the example are the ones that its images hold.
# Last line: demo: N published, N delivered, N lost
set -euo pipefail
cd "$(dirname "$0")/.."
tidegate=${TIDEGATE:?the program tidegate}
programs=${EXAMPLES:?the folder with sensor and printer}
events=1000
example=manifests/examples/temperature
began=$SECONDS
folder=$(mktemp -d)
run=
log=

say() { printf '%3ds  %s\n' $((SECONDS - began)) "$*"; }
end() {
  [ -z "$run" ] || { kill "$run" 2>/dev/null || true; wait "$run" || true; }
  run=
}
finish() { end; rm -rf "$folder"; }
explain() { echo "the demo failed; the last lines of tidegate dev:" >&2; [ -z "$log" ] || tail -n 20 "$log" >&2; }
trap finish EXIT
trap explain ERR

# Waits for a line of tidegate dev.
until_line() {
  until grep -qE "$1" "$log"; do
    kill -0 "$run" 2>/dev/null || { explain; exit 1; }
    sleep 0.02
  done
}
# The printer writes a line for each event that it got, which begins with the event's id.
received() { sed -n 's/^printer | \([^ ]*\) {.*/\1/p' "$log"; }

published=0 delivered=0
for routing in Queued Direct; do
  mkdir "$folder/$routing"
  log=$folder/$routing.log
  if [ "$routing" = Queued ]; then
    cp "$example/topic.yaml" "$folder/$routing/"
  else
    # It stores nothing, and so has no retention.
    sed -e '/^  retention:/,/^    maxSize:/d' -e 's/^spec:/spec:\n  routing: Direct/' "$example/topic.yaml" >"$folder/$routing/topic.yaml"
  fi
  cp "$example/handler.yaml" "$folder/$routing/"
  "$tidegate" dev "$folder/$routing" --state "$folder/$routing.state" -- "$programs/printer" >"$log" 2>&1 &
  run=$!
  until_line '^handler printer is ready'
  say "routing $routing: $(grep -E '^ready after' "$log"), $(grep -E '^handler printer is ready' "$log")"
  url=$(sed -n 's/^  topic temperature: \(https:[^ ,]*\).*/\1/p' "$log")
  say "a sensor publishes $events events to $url"
  accepted=$(URL=$url CA_FILE=$folder/$routing.state/ca.crt TOKEN_FILE=$folder/$routing.state/tokens/default.temperature \
    COUNT=$events "$programs/sensor" | sed -n 's/^published //p')
  for _ in $(seq 100); do
    found=$(received | sort -u | wc -l)
    [ "$found" -lt "$accepted" ] || break
    sleep 0.1
  done
  say "published: $accepted, delivered: $found, delivered more than once: $(($(received | wc -l) - found))"
  published=$((published + accepted)) delivered=$((delivered + found))
  end
done
trap - ERR
lost=$((published - delivered))
echo "demo: $published published, $delivered delivered, $lost lost"
[ "$published" -eq $((2 * events)) ] && [ "$lost" -eq 0 ]
