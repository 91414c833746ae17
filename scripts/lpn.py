#!/usr/bin/env python3
"""Costs of attacks on the noise that silent transfers rest on (crates/ot/src/ferret/params.rs).

n outputs, one unit of noise in each of t blocks, ten of k table entries added to each output. Printed as log2 of word operations:

* guess:   solve k outputs that happen to be free of noise (Gauss), with dense elimination, k^2.8 each time;
* sparse:  the same with 20 k^2 for each try, as if elimination stayed sparse;
* peeled:  the same on the smallest sub-system: outputs whose entries all lie in a subset of the table, found by taking away the
           entry of least degree until outputs and entries balance; its entries alone must be free of noise;
* checks:  statistical decoding: parity checks of weight w from elimination on the peeled entries, each right with a bias of
           (1 - 2 t / n)^w, for the best w.

What is not computed here: hybrid and algebraic attacks (ePrint 2025/1476) on sub-systems. There is no argument from the code's dual distance: a
lightest check, if somebody found one, would tell the noise from randomness with an advantage of 2^-37.

The noise is regular: an output of every block is noisy, so that a set of m outputs is clean with probability prod (1 - m_i / size),
taken as (1 - m / n)^t. Runs a minute; prints one line for each set, and fails when one in use is below 128.
"""

import heapq
import math
import random
import sys

LOCAL = 10
# name, trees, log2 of the table, depth; those in use first.
SETS = [
    ("silent", 1700, 16, 9),
    ("compact", 3040, 18, 11),
    ("emp-ot 1.0 alpha, b10", 850, 16, 10),
    ("emp-ot 1.0 alpha, b12", 1520, 18, 12),
]
IN_USE = 2


def peel(log_k, n, seed):
    """Entries left when outputs and entries balance."""
    rng = random.Random(seed)
    k = 1 << log_k
    # Sampling keeps the proportions: a sub-system of a thirty-second of the size has the same shape.
    scale = 8 if log_k < 18 else 32
    k, n = k // scale, n // scale
    rows = [[rng.randrange(k) for _ in range(LOCAL)] for _ in range(n)]
    degree, where = [0] * k, [[] for _ in range(k)]
    for i, row in enumerate(rows):
        for v in row:
            degree[v] += 1
            where[v].append(i)
    heap = [(d, v) for v, d in enumerate(degree)]
    heapq.heapify(heap)
    gone, dead = bytearray(k), bytearray(n)
    entries, outputs = k, n
    while outputs > entries:
        d, v = heapq.heappop(heap)
        if gone[v] or d != degree[v]:
            continue
        gone[v] = 1
        entries -= 1
        for i in where[v]:
            if dead[i]:
                continue
            dead[i] = 1
            outputs -= 1
            for u in rows[i]:
                if not gone[u]:
                    degree[u] -= 1
                    heapq.heappush(heap, (degree[u], u))
    return entries * scale


def costs(t, log_k, depth):
    n, k = t << depth, 1 << log_k
    clean = lambda m: -t * math.log2(1 - m / n)
    small = peel(log_k, n, 1)
    guess = clean(k) + 2.8 * math.log2(k)
    sparse = clean(k) + math.log2(20) + 2 * math.log2(k)
    peeled = clean(small) + math.log2(20) + 2 * math.log2(small)
    h = lambda x: -x * math.log2(x) - (1 - x) * math.log2(1 - x)
    loss = -2 * math.log2(1 - 2 * t / n)
    weights = (small * i // 1000 for i in range(1, 501))
    checks = min(small * (1 - h(w / small)) + loss * w for w in weights)
    return {"guess": guess, "sparse": sparse, "peeled": peeled, "checks": checks}, small


def main():
    ok = True
    for number, (name, t, log_k, depth) in enumerate(SETS):
        found, small = costs(t, log_k, depth)
        worst = min(found.values())
        row = ", ".join(f"{what} 2^{bits:.0f}" for what, bits in found.items())
        print(f"{name}: t {t}, k 2^{log_k}, n {t << depth}, peeled to {small} entries: {row}")
        ok &= number >= IN_USE or worst >= 128
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
