#!/usr/bin/env python3
"""Counts the instructions of each ring kernel with valgrind and holds them against crates/ring/instructions.json.

Counts repeat exactly for one compiler, so a slower kernel shows as a larger count on any machine. Valgrind reports no
AVX-512, so these are the AVX2 kernels (portable ones where the processor has no AVX2). Fails when a count grew by more
than 3 %. With --update writes the file anew. Needs valgrind.
"""
import json, os, re, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "crates/ring/instructions.json"
TOLERANCE = 1.03

subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "-p", "sordino-ring", "--example", "kernel"], cwd=ROOT, check=True)
EXE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/examples/kernel"


def total(name, times):
    with tempfile.NamedTemporaryFile() as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", str(EXE), name, str(times)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.search(r"Collected : (\d+)", text).group(1))


def count(name):
    return name, (total(name, 3) - total(name, 1)) // 2


names = subprocess.run([EXE], capture_output=True, text=True, check=True).stdout.split()
with ThreadPoolExecutor(2) as pool:
    counts = dict(pool.map(count, names))
if "--update" in sys.argv:
    STORED.write_text(json.dumps(counts, indent=2) + "\n")
stored = json.loads(STORED.read_text())
grown = []
print("| kernel | instructions | stored |\n|---|---|---|")
for name, n in counts.items():
    print(f"| {name} | {n} | {stored.get(name, 'none')} |")
    if name not in stored or n > stored[name] * TOLERANCE:
        grown.append(name)
if grown:
    sys.exit("more instructions than stored: " + ", ".join(grown) + " (scripts/instructions.py --update if that is meant)")
