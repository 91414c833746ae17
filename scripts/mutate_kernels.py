#!/usr/bin/env python3
"""Plants one fault after another into the kernels of graphics cards, in a copy, and says who notices: the comparison with the processor on
OpenCL (PoCL), or Oclgrind. Fails if nobody notices one. Takes about ten minutes; needs what scripts/check-kernels.sh needs, and PoCL."""
import os
import pathlib
import shutil
import subprocess
import sys

here = pathlib.Path(__file__).resolve().parent.parent
copy = here / "target" / "mutants"
FAULTS = [
    ("random.cl", "    BARRIER();\n", "", "keystream: no barrier"),
    ("random.cl", "4 * block + j < start + n", "4 * block < start + n", "keystream: whole blocks are written"),
    ("random.cl", "const u64 block = start / 4 + i;", "const u64 block = i;", "keystream: a start is passed over"),
    ("words.cl", "    BARRIER();\n", "", "planes: no barrier"),
    ("words.cl", "element < n ? x[element] : 0", "x[element]", "planes: read past the end"),
    ("words.cl", "    LOCAL W block[64];\n", "    LOCAL W block[64];\n    if (THREAD >= count) return;\n", "planes: return before a barrier"),
    ("words.cl", "map[i] == 0xffffffffu ? fill : x[map[i]]", "x[map[i]]", "gather: no fill"),
    ("words.cl", "value >> (64 * i - e * bits)", "value >> (e * bits - 64 * i)", "pack: the wrong end of an element"),
    ("words.cl", "if (used + bits > 64 && word + 1 < count)", "if (used + bits > 64)", "unpack: read past the end"),
    ("words.cl", "bit * x[i] + (1 - 2 * bit) * value", "bit * x[i] + (1 - bit) * value", "select: the masked part is lost"),
    ("widths.cl", "<< unused >> (shift + unused)", ">> shift", "truncate: high bits stay"),
    ("widths.cl", "first * (1 + (b & c))", "first * (b & c)", "widen: an offset is lost"),
    ("compare.cl", "    if (word >= words)\n        return;\n    u64 a[4];", "    u64 a[4];", "thermometer: a thread past the end"),
    ("compare.cl", "j == last ? one : 0", "0", "leaves: the last threshold"),
    ("compare.cl", "((x) & (y) & one) ^", "", "tree: a public product is lost"),
    ("compare.cl", "high < low ? whole : 0", "0", "outliers: intervals that wrap"),
    ("compare.cl", "if (end < element + 64)", "if (end + 64 < element)", "polynomial: elements past the end count"),
    ("linear.cl", "        BARRIER();\n        TILES(sum, high, xs, ws)\n        BARRIER();\n    }\n    UNROLL\n    for (u32 i = 0; i < 4; i++)\n        UNROLL\n        for (u32 j = 0; j < 4; j++) {\n            const u32 pixel", "        TILES(sum, high, xs, ws)\n        BARRIER();\n    }\n    UNROLL\n    for (u32 i = 0; i < 4; i++)\n        UNROLL\n        for (u32 j = 0; j < 4; j++) {\n            const u32 pixel", "linear: no barrier before use"),
    ("linear.cl", "        TILES(sum, high, xs, ws)\n        BARRIER();", "        TILES(sum, high, xs, ws)", "linear: no barrier after use"),
    ("linear.cl", "if (pixel < op.pixels && column < op.co)", "if (column < op.co)", "linear: pixels past the end are stored"),
    ("linear.cl", "if (pixel < op.pixels && column < op.co)", "if (pixel < op.pixels && column < op.co + 1)", "linear: a column too many"),
    ("linear.cl", " y < op.h && z < op.w;\n            xs", " y < op.h && z <= op.w;\n            xs", "linear: read one pixel too far"),
    ("linear.cl", "(u32)(a) * (u32)((b) >> 32) +", "", "linear: half of a cross product"),
    ("linear.cl", "if (!second)\n", "if (second)\n", "gradient: the products are swapped"),
    ("linear.cl", "        if (THREAD < left)\n            sums[THREAD] += sums[THREAD + left];\n        BARRIER();", "        if (THREAD < left)\n            sums[THREAD] += sums[THREAD + left];", "full: no barrier between sums"),
    ("linear.cl", "sum += x[part * n + i]", "sum = x[part * n + i]", "add_parts: the last alone"),
]


def passes(*command):
    env = dict(os.environ, CARGO_TARGET_DIR=str(copy / "target"), SORDINO_REQUIRE_OPENCL="1")
    try:
        return subprocess.run(command, cwd=copy / "tree", capture_output=True, timeout=900, env=env).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def noticed():
    if not passes("cargo", "test", "--release", "--locked", "-q", "-p", "sordino-gpu", "--test", "equal", "--", "on_opencl"):
        return "PoCL"
    return None if passes("scripts/check-kernels.sh") else "Oclgrind"


shutil.rmtree(copy / "tree", ignore_errors=True)
(copy / "tree").mkdir(parents=True)
for name in ["crates", "scripts"]:
    shutil.copytree(here / name, copy / "tree" / name)
for name in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"]:
    shutil.copy(here / name, copy / "tree" / name)
# What an earlier run left half done was built later than these files were written.
for path in (copy / "tree/crates/gpu/kernels").glob("*.*"):
    path.touch()
if noticed():
    sys.exit("without a fault something fails already")
missed = 0
for file, old, new, what in FAULTS:
    path = copy / "tree/crates/gpu/kernels" / file
    text = path.read_text()
    if text.count(old) < 1:
        sys.exit(f"{what}: {file} has no such text; mend this list")
    path.write_text(text.replace(old, new, 1))
    who = noticed()
    path.write_text(text)
    missed += who is None
    print(f"{what:44} {who or 'NOT NOTICED'}", flush=True)
print(f"{len(FAULTS) - missed} of {len(FAULTS)} noticed")
sys.exit(missed > 0)
