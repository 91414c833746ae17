#!/usr/bin/env bash
# The whole suite so many times in a row (100 if not said), on processors that are kept busy: every test program, three at a time. Stops at the first
# failure and shows it, with the seed that repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."
times=${1:-100}
programs=$(mktemp)
said=$(mktemp)
trap 'rm -f "$programs" "$said"' EXIT
cargo test --release --workspace --locked --no-run --message-format=json 2>/dev/null | python3 -c '
import json, os, sys
for line in sys.stdin:
    built = json.loads(line)
    if built.get("executable") and built["profile"]["test"]:
        print(os.path.dirname(built["manifest_path"]), built["executable"])
' >"$programs"
for run in $(seq "$times"); do
  began=$SECONDS
  # A program runs in the folder of its package, as cargo has it.
  if ! xargs -P 3 -L 1 bash -c 'cd "$0" && said=$("$1" 2>&1) || { echo "$1"; echo "$said" | tail -n 80; exit 1; }' <"$programs" >"$said"; then
    cat "$said"
    echo "run $run of $times failed"
    exit 1
  fi
  echo "run $run of $times: $(wc -l <"$programs") programs passed in $((SECONDS - began)) s"
done
