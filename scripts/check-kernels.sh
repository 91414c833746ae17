#!/usr/bin/env bash
# The kernels of graphics cards without one: every operation on small sizes under Oclgrind, which runs a kernel's threads one by one and
# reports accesses out of bounds, data races, divergent barriers and wrong arguments. It exits with 0 whatever it found, so an empty log
# is what counts. Needs oclgrind and ocl-icd-libopencl1.
set -euo pipefail
cd "$(dirname "$0")/.."
library=$(ldconfig -p | sed -n 's/.*liboclgrind-rt-icd.so.* => //p' | head -1)
[ -n "$library" ] || library=$(find /usr/lib /usr/local/lib -name 'liboclgrind-rt-icd.so*' 2>/dev/null | head -1)
[ -n "$library" ] || { echo "oclgrind is not installed"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo "$library" >"$folder/oclgrind.icd"
cargo test --release --locked -p sordino-gpu --test equal --no-run --quiet
export OCL_ICD_VENDORS="$folder" OCLGRIND_LOG="$folder/log" OCLGRIND_MAX_ERRORS=20 OCLGRIND_DATA_RACES=1 OCLGRIND_CHECK_API=1
export SORDINO_REQUIRE_OPENCL=1 SORDINO_SMALL=1
if ! cargo test --release --locked -p sordino-gpu --test equal --quiet -- --test-threads 1 on_opencl >"$folder/out" 2>&1; then
  cat "$folder/out"
  head -40 "$folder/log" 2>/dev/null
  exit 1
fi
if [ -s "$folder/log" ]; then
  head -40 "$folder/log"
  exit 1
fi
grep "test result" "$folder/out"
