#!/usr/bin/env bash
# Coverage-guided fuzzing of every parser, so many seconds each (60 if not said), from the committed corpus; further arguments
# name targets. Installs cargo-fuzz. Needs no nightly compiler: sanitizers are left out, and the code has next to no `unsafe`.
# What is found lies in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cd fuzz/fuzz_targets && ls | sed 's/\.rs$//')
for target in "${targets[@]}"; do
  folder=$target
  [ "$target" != preprocess ] || folder=toml
  corpus=$(ls -d crates/*/tests/corpus/"$folder")
  mkdir -p "fuzz/corpus/$target"
  echo "== $target"
  # Instrumentation is what the stable compiler needs to be told that it may do.
  RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "$corpus" -- \
    -max_total_time="$seconds" -rss_limit_mb=3000 -timeout=60 -max_len=65536 -print_final_stats=1 2>&1 | grep -E "stat::|ERROR|panicked|SUMMARY|Done" || true
  if [ -n "$(ls "fuzz/artifacts/$target" 2>/dev/null)" ]; then
    echo "found: fuzz/artifacts/$target" && exit 1
  fi
done
