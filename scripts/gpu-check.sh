#!/usr/bin/env bash
# Everything that only a machine with an NVIDIA card can say, in one call of under ten minutes: bytes first, then checkers, then seconds.
# Needs the card's driver and this project's toolchain; compute-sanitizer, ncu and nsys (of the CUDA toolkit) are used where they are.
# Results lie in gpu-results/: send them along with a change of a kernel.    scripts/gpu-check.sh [FOLDER]
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-results}
mkdir -p "$out"
failed=()
# A step: its name, how many seconds it may take, and the command. Its output is shown and kept.
step() {
  local name=$1 seconds=$2
  shift 2
  echo "== $name"
  timeout "$seconds" "$@" >"$out/$name.txt" 2>&1 || failed+=("$name")
  tail -25 "$out/$name.txt"
}
step card 20 nvidia-smi
step build 240 cargo build --release --locked
step tests-build 240 cargo test --release --locked --no-run -p sordino-gpu -p sordino-mpc -p sordino-nn
export SORDINO_REQUIRE_CUDA=1
sordino=target/release/sordino
step devices 20 $sordino devices
# The bytes: every operation against the processor, then operations and whole networks of three, two and one server on the card.
step equal 120 cargo test --release --locked -p sordino-gpu --test equal -- --include-ignored on_cuda
step conformance 120 cargo test --release --locked -p sordino-mpc --test conformance -- card
step networks 60 cargo test --release --locked -p sordino-nn --test cards
step digit 20 $sordino infer assets/mnist.onnx --input assets/digit-7.png --device cuda --check
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}; seconds of wrong bytes mean nothing, so this stops here"
  exit 1
fi
# The checkers, on small sizes.
test=$(ls -t target/release/deps/equal-* | grep -v '\.d$' | head -1)
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck; do
    SORDINO_SMALL=1 step "$tool" 90 compute-sanitizer --tool "$tool" --error-exitcode 1 "$test" --include-ignored --test-threads 1 on_cuda
  done
fi
# The seconds: three servers on the one card, TLS between processes.
step bench-kernels 60 $sordino bench kernels --device cuda --runs 3 --out "$out"
step bench-inference 90 $sordino bench inference --only resnet50 --device cuda --runs 3 --out "$out"
step bench-training 60 $sordino bench training --only lenet --device cuda --runs 3 --out "$out"
if command -v ncu >/dev/null; then
  step ncu 60 ncu --set full -k regex:"linear|keystream" -c 20 $sordino bench kernels --device cuda --runs 1 --size 512 --out "$out"
fi
if command -v nsys >/dev/null; then
  step nsys 60 nsys profile --trace cuda,osrt --force-overwrite true -o "$out/nsys" $sordino infer assets/mnist.onnx --input assets/digit-7.png --device cuda
fi
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]} (see $out)"
  exit 1
fi
echo "all of it passed; results are in $out"
