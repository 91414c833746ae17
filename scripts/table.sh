#!/usr/bin/env bash
# Prints the README's table: one image through each network, three processes with TLS, the median of five runs.
# Needs Python 3, no packages. With arguments: only those networks.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
echo "| network | s | MB | rounds | MB memory per party | mean relative error | published s | published MB |"
echo "|---|---|---|---|---|---|---|---|"
python3 - "$dir" "$@" <<'PY'
import json, random, struct, subprocess, sys
d, only = sys.argv[1], sys.argv[2:]
published = {"lenet": (0.38, 3.00), "alexnet-cifar10": (0.91, 2.43), "vgg16-cifar10": (2.14, 56.2),
             "alexnet-tinyimagenet": (0.95, 13.97), "vgg16-tinyimagenet": (2.30, 224.5), "alexnet-imagenet": (1.52, 240),
             "vgg16-imagenet": (9.44, 2750), "resnet50": (9.31, 3080), "resnet101": (17.62, 4640), "resnet152": (25.77, 6560)}
exe = "target/release/sordino"
for line in subprocess.run([exe, "zoo", "list"], capture_output=True, text=True, check=True).stdout.splitlines():
    name, shape = line.split()[0], json.loads(line[line.index("["):line.index("]") + 1])
    if only and name not in only:
        continue
    n = shape[0] * shape[1] * shape[2]
    random.seed(1)
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d, %d), }\n" % tuple(shape)
    with open(d + "/x.npy", "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        f.write(struct.pack("<%df" % n, *(random.gauss(0, 1) for _ in range(n))))
    subprocess.run([exe, "zoo", "export", name, "-o", d + "/m.onnx"], check=True, capture_output=True)
    runs = []
    for i in range(5):
        args = [exe, "infer", d + "/m.onnx", "--input", d + "/x.npy", "--parties", "processes", "--json"]
        runs.append(json.loads(subprocess.run(args + (["--check"] if i == 0 else []), check=True, capture_output=True).stdout))
    s = sorted(r["seconds"] for r in runs)[2]
    r = runs[0]
    p = published.get(name)
    print("| %s | %.3f | %.2f | %d | %.0f | %.5f %% | %s | %s |" % (
        name, s, r["bytes"]["payload"] / 1e6, r["rounds"], max(x["peak_rss_mb"] for x in runs),
        100 * r["check"]["mean_rel_err"], p[0] if p else "", p[1] if p else ""), flush=True)
PY
