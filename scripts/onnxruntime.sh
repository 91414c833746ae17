#!/usr/bin/env bash
# Compares the float reference with onnxruntime on every network of the zoo, to 1e-4 relative: exports each, runs both
# on the same input. Installs onnxruntime from PyPI into a throw-away environment. With arguments: only those networks.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet --workspace --examples
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/env"
"$dir/env/bin/pip" install --quiet onnxruntime numpy
names=("$@")
[ ${#names[@]} -gt 0 ] || mapfile -t names < <(target/release/sordino zoo list | awk '{print $1}')
for pool in avg max; do
  for name in "${names[@]}"; do
    target/release/sordino zoo export "$name" --pool "$pool" -o "$dir/model.onnx" >/dev/null
    "$dir/env/bin/python" - "$dir" <<'PY'
import sys, numpy as np, onnxruntime as ort
d = sys.argv[1]
session = ort.InferenceSession(d + "/model.onnx", providers=["CPUExecutionProvider"])
shape = [1] + session.get_inputs()[0].shape[1:]
x = np.random.RandomState(1).randn(*shape).astype(np.float32)
np.save(d + "/x.npy", x)
np.save(d + "/want.npy", session.run(None, {session.get_inputs()[0].name: x})[0].astype(np.float32))
PY
    target/release/examples/reference "$dir/model.onnx" "$dir/x.npy" "$dir/want.npy" | sed "s/^/$name ($pool): /"
  done
done
