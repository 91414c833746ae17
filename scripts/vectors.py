#!/usr/bin/env python3
"""Known answers of the kernels of `ot` and `he`, computed here from their definitions alone: AES from FIPS-197, hash, tree and code as
docs/two-party.md and the sources they name have them, transforms as sums of powers. Writes the files that the crates' tests read;
with --check says whether they are what is there."""
import hashlib
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent / "crates"


def sbox():
    p = q = 1
    box = [0] * 256
    while True:
        p ^= (p << 1 & 255) ^ (0x1B if p & 128 else 0)
        for shift in (1, 2, 4):
            q = (q ^ q << shift) & 255
        q ^= 0x09 if q & 128 else 0
        turn = lambda n: (q << n | q >> 8 - n) & 255
        box[p] = q ^ turn(1) ^ turn(2) ^ turn(3) ^ turn(4) ^ 0x63
        if p == 1:
            box[0] = 0x63
            return box


BOX = sbox()


def aes(key, block):
    """AES-128 of integers whose bytes are little-endian."""
    words = [list(key.to_bytes(16, "little")[4 * i:4 * i + 4]) for i in range(4)]
    constant = 1
    for i in range(4, 44):
        word = list(words[-1])
        if i % 4 == 0:
            word = [BOX[b] for b in word[1:] + word[:1]]
            word[0] ^= constant
            constant = constant << 1 ^ (0x11B if constant & 128 else 0)
        words.append([a ^ b for a, b in zip(words[i - 4], word)])
    keys = [sum(words[4 * r:4 * r + 4], []) for r in range(11)]
    double = lambda b: b << 1 & 255 ^ (0x1B if b & 128 else 0)
    state = [a ^ b for a, b in zip(block.to_bytes(16, "little"), keys[0])]
    for r in range(1, 11):
        state = [BOX[b] for b in state]
        state = [state[(i + 4 * (i % 4)) % 16] for i in range(16)]
        if r < 10:
            mixed = []
            for c in range(4):
                a = state[4 * c:4 * c + 4]
                mixed += [double(a[i]) ^ double(a[(i + 1) % 4]) ^ a[(i + 1) % 4] ^ a[(i + 2) % 4] ^ a[(i + 3) % 4] for i in range(4)]
            state = mixed
        state = [a ^ b for a, b in zip(state, keys[r])]
    return int.from_bytes(bytes(state), "little")


# FIPS-197, appendix C.1.
turned = lambda text: int.from_bytes(bytes.fromhex(text), "little")
assert aes(turned("000102030405060708090a0b0c0d0e0f"), turned("00112233445566778899aabbccddeeff")) == turned("69c4e0d86a7b0430d8cdb78070b4c55a")

LOW = (1 << 64) - 1


def number(name):
    """A block that its name gives."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")


def hashed(seed, direction, at, x):
    """The string of block number `at` of a direction: its low 64 bits."""
    key = aes(seed, direction << 64 | at // 1024)
    return (aes(key, x) ^ x) & LOW


def row(seed, direction, at, x, length, t):
    """Block t of the string of so many blocks."""
    group = at // max(1024 // length, 1)
    key = aes(seed, (t // 1024) << 100 | length << 72 | direction << 64 | group)
    return aes(key, x ^ t) ^ x ^ t


def children(key, node):
    high, low = node >> 64, node & LOW
    turned = (high ^ low) << 64 | high
    left = aes(key, turned) ^ turned
    return [left, left ^ node]


def tree(key, root, delta, depth):
    level, sums = [root, root ^ delta], [root]
    for _ in range(1, depth):
        level = sum((children(key, node) for node in level), [])
        total = 0
        for node in level[::2]:
            total ^= node
        sums.append(total)
    return sums, [leaf & ~1 for leaf in level]


def code(key, bits, outputs):
    """Outputs of the code over a table whose entry i is (i + 1) times a constant."""
    width = 2 if bits == 16 else 4
    stream = b"".join(aes(key, i).to_bytes(16, "little") for i in range(-(-10 * width * outputs // 16)))
    found = []
    for i in range(outputs):
        total = 0
        for j in range(10):
            at = (10 * i + j) * width
            place = int.from_bytes(stream[at:at + width], "little") % (1 << bits)
            total ^= (place + 1) * CONSTANT % (1 << 128)
        found.append(total)
    return found


CONSTANT = 0x9E3779B97F4A7C15F39CC0605CEDC835


def word(r):
    """The Walsh-Hadamard word of a choice."""
    return sum((bin(r & i).count("1") & 1) << i for i in range(256))


def many(session, at, column):
    digest = hashlib.sha256(column.to_bytes(32, "little") + at.to_bytes(8, "little") + session.to_bytes(16, "little")[:15])
    return int.from_bytes(digest.digest()[:8], "little")


def transfers():
    """Lines of a kind, its arguments, and its results."""
    line = lambda *fields: " ".join(f if isinstance(f, str) else f"{f:x}" for f in fields)
    seed, delta = number("seed"), number("delta") | 1
    yield "# Numbers are hexadecimal. Written by scripts/vectors.py."
    for i in range(3):
        yield line("aes", number(f"key {i}"), number(f"block {i}"), aes(number(f"key {i}"), number(f"block {i}")))
    for direction, at in [(0, 0), (1, 1023), (1, 1024), (0, 5_000_000)]:
        x = number(f"hash {at}")
        yield line("hash", seed, direction, at, x, delta, hashed(seed, direction, at, x), hashed(seed, direction, at, x ^ delta))
    for at, length, t in [(7, 1, 0), (700, 3, 2), (3, 1500, 1499)]:
        x = number(f"row {at}")
        yield line("row", seed, at & 1, at, x, length, t, row(seed, at & 1, at, x, length, t))
    for depth in (1, 4):
        sums, leaves = tree(seed, number("root"), delta, depth)
        yield line("tree", seed, number("root"), delta, depth, *sums, *leaves)
    for bits in (10, 16, 18):
        yield line("code", seed, bits, *code(seed, bits, 6))
    for r in (0, 1, 0x5A, 255):
        halves = word(r) & (1 << 128) - 1, word(r) >> 128
        yield line("word", r, *halves)
        yield line("many", seed, r + 3, *halves, many(seed, r + 3, word(r)))


def transforms():
    """A prime, a root, the places and values of a polynomial, and places and values of its transform: place i is the value at the power
    2 rev(i) + 1 of the root, with the bits of i reversed."""
    n = 4096
    yield "# prime root | place value ... | place value ... of the transform; decimal. Written by scripts/vectors.py."
    prime = lambda p: p % 2 and all(pow(a, p - 1, p) == 1 for a in (2, 3, 5, 7, 11, 13))
    for bits in (26, 32, 50):
        p = (1 << bits) - 2 * n + 1 if (1 << bits) % (2 * n) == 0 else None
        while not prime(p):
            p -= 2 * n
        root = next(r for r in (pow(g, (p - 1) // (2 * n), p) for g in range(2, 1000)) if pow(r, n, p) == p - 1)
        x = {number(f"{bits} {i}") % n: number(f"v {bits} {i}") % p for i in range(5)}
        y = []
        for i in (0, 1, 2, 1000, 4095):
            power = 2 * int(f"{i:012b}"[::-1], 2) + 1
            y.append((i, sum(v * pow(root, power * j, p) for j, v in x.items()) % p))
        flat = lambda pairs: " ".join(f"{a} {b}" for a, b in pairs)
        yield f"{p} {root} | {flat(sorted(x.items()))} | {flat(y)}"


def main():
    wrong = False
    for name, lines in {"ot/tests/vectors/kernels.txt": transfers(), "he/tests/vectors/transforms.txt": transforms()}.items():
        text, path = "\n".join(lines) + "\n", ROOT / name
        if "--check" not in sys.argv:
            path.write_text(text)
        elif path.read_text() != text:
            wrong = True
            print(f"{path} is not what its definitions give")
    sys.exit(wrong)


main()
