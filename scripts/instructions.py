#!/usr/bin/env python3
"""Counts the instructions of kernels of ring, ot and he with valgrind and holds them against each crate's instructions.json.

Counts repeat exactly for one compiler, so a slower kernel shows as a larger count on any machine. Valgrind reports no
AVX-512, so these are the AVX2 kernels (portable ones where the processor has no AVX2). Fails when a count grew by more
than 3 %. With --update writes the file anew. Needs valgrind.
"""
import json, os, re, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES = ["ring", "ot", "he"]
TOLERANCE = 1.03

TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/examples"


def total(exe, name, times):
    with tempfile.NamedTemporaryFile() as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", str(exe), name, str(times)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return int(re.search(r"Collected : (\d+)", text).group(1))


def counted(crate):
    example = f"kernel_{crate}"
    build = ["cargo", "build", "--release", "--locked", "--quiet", "-p", f"sordino-{crate}", "--example", example]
    subprocess.run(build, cwd=ROOT, check=True)
    exe = TARGET / example
    names = subprocess.run([exe], capture_output=True, text=True, check=True).stdout.split()
    with ThreadPoolExecutor(2) as pool:
        counts = pool.map(lambda name: (total(exe, name, 3) - total(exe, name, 1)) // 2, names)
        return dict(zip(names, counts))


grown = []
print("| crate | kernel | instructions | stored |\n|---|---|---|---|")
for crate in CRATES:
    path = ROOT / f"crates/{crate}/instructions.json"
    counts = counted(crate)
    if "--update" in sys.argv:
        path.write_text(json.dumps(counts, indent=2) + "\n")
    stored = json.loads(path.read_text())
    for name, n in counts.items():
        print(f"| {crate} | {name} | {n} | {stored.get(name, 'none')} |")
        if name not in stored or n > stored[name] * TOLERANCE:
            grown.append(f"{crate} {name}")
if grown:
    sys.exit("more instructions than stored: " + ", ".join(grown) + " (scripts/instructions.py --update if that is meant)")
