// AES-128 in counter mode. The table is laid out once per lane, so that the banks hit on a card never depend on the key. On a processor,
// where OpenCL is for tests, its cache lines do.

typedef struct {
    u32 word[44];
} RoundKeys;

#define LANES 32
#define T(x) te[((x) & 255) * LANES + lane]
#define COLUMN(a, b, c, d) (T(a) ^ ROTATE(T((b) >> 8), 8) ^ ROTATE(T((c) >> 16), 16) ^ ROTATE(T((d) >> 24), 24))
#define S(x) ((T(x) >> 8) & 255)
#define LAST(a, b, c, d) (S(a) | S((b) >> 8) << 8 | S((c) >> 16) << 16 | S((d) >> 24) << 24)

// Words start .. start + n of the stream.
KERNEL(256) keystream(GLOBAL u32 *out, IN(u32, table), RoundKeys keys, u64 start, u64 n) {
    LOCAL u32 te[256 * LANES];
    const u32 lane = THREAD % LANES;
    AT(table);
    for (u32 i = THREAD; i < 256 * LANES; i += 256)
        te[i] = table[i / LANES];
    BARRIER();
    EACH(i, (start % 4 + n + 3) / 4) {
        const u64 block = start / 4 + i;
        u32 a = (u32)block ^ keys.word[0], b = (u32)(block >> 32) ^ keys.word[1], c = keys.word[2], d = keys.word[3];
        UNROLL
        for (u32 round = 1; round < 10; round++) {
            const u32 e = COLUMN(a, b, c, d) ^ keys.word[4 * round], f = COLUMN(b, c, d, a) ^ keys.word[4 * round + 1];
            const u32 g = COLUMN(c, d, a, b) ^ keys.word[4 * round + 2], h = COLUMN(d, a, b, c) ^ keys.word[4 * round + 3];
            a = e, b = f, c = g, d = h;
        }
        const u32 last[4] = {LAST(a, b, c, d) ^ keys.word[40], LAST(b, c, d, a) ^ keys.word[41],
                             LAST(c, d, a, b) ^ keys.word[42], LAST(d, a, b, c) ^ keys.word[43]};
        UNROLL
        for (u32 j = 0; j < 4; j++)
            if (4 * block + j >= start && 4 * block + j < start + n)
                out[4 * block + j - start] = last[j];
    }
}

// Overwrites what a block of memory held.
KERNEL(256) wipe(GLOBAL u64 *out, u64 n) {
    EACH(i, n)
        out[i] = 0;
}
