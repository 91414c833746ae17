// Bit-sliced comparison: one thread works on one word, which is 64 elements. Planes have `words` words each.

typedef struct {
    u32 width[64], plane[64], leaf[64];
} Chunks;

// Of each group of a level: its first node, the first of its inputs and of its products. A group of one passes through.
typedef struct {
    u32 first[22], input[22], product[22];
    u32 nodes;
} Level;

// For each chunk with value a: the planes [a < 1] .. [a < 2^width - 1].
KERNEL(256) thermometer(GLOBAL u64 *out, IN(u64, planes), Chunks chunks, u64 words) {
    const u64 word = (u64)GROUP(0) * 256 + THREAD;
    const u32 width = chunks.width[GROUP(1)];
    AT(planes);
    if (word >= words)
        return;
    u64 a[4];
    UNROLL
    for (u32 p = 0; p < 4; p++)
        a[p] = p < width ? planes[(chunks.plane[GROUP(1)] + p) * words + word] : 0;
    for (u32 j = 1; j < 1u << width; j++) {
        u64 less = 0;
        UNROLL
        for (u32 p = 0; p < 4; p++)
            less = j >> p & 1 ? ~a[p] | less : ~a[p] & less;
        out[(chunks.leaf[GROUP(1)] + j - 1) * words + word] = less;
    }
}

#define CHOOSE(bit, zero, one) ((zero) ^ ((bit) & ((zero) ^ (one))))

// XOR shares of each chunk's less and equal, from shares of the thermometers and the planes of the other number.
KERNEL(256) leaves(GLOBAL u64 *out, IN(u64, shares), IN(u64, planes), Chunks chunks, u64 one, u64 words) {
    const u64 word = (u64)GROUP(0) * 256 + THREAD;
    const u32 chunk = GROUP(1), width = chunks.width[chunk], last = (1u << width) - 1;
    AT(shares), AT(planes);
    if (word >= words)
        return;
    // less[j] shares [a < j]; leq is the same of j + 1.
    u64 less[16], leq[16];
    UNROLL
    for (u32 j = 0; j < 16; j++) {
        less[j] = j > 0 && j <= last ? shares[(chunks.leaf[chunk] + j - 1) * words + word] : 0;
        leq[j] = j < last ? shares[(chunks.leaf[chunk] + j) * words + word] : j == last ? one : 0;
    }
    UNROLL
    for (u32 p = 0; p < 4; p++) {
        const u64 bit = p < width ? planes[(chunks.plane[chunk] + p) * words + word] : 0;
        // Planes that there are not choose the even one of each pair: place 0 stays what it is.
        UNROLL
        for (u32 j = 0; j < 8u >> p; j++) {
            less[j] = CHOOSE(bit, less[2 * j], less[2 * j + 1]);
            leq[j] = CHOOSE(bit, leq[2 * j], leq[2 * j + 1]);
        }
    }
    const u32 wire = chunk == 0 ? 0 : 2 * chunk - 1;
    out[wire * words + word] = less[0];
    if (chunk > 0)
        out[(wire + 1) * words + word] = less[0] ^ leq[0];
}

#define LESS(node) ((node) == 0 ? 0 : 2 * (node) - 1)
#define SIZE(level, g) ((level).nodes - (level).first[g] < 3 ? (level).nodes - (level).first[g] : 3)

// Copies the wires that a level opens, in the order in which `Inputs` are read.
KERNEL(256) tree_inputs(GLOBAL u64 *out, IN(u64, wires), Level level, u64 words) {
    const u64 word = (u64)GROUP(0) * 256 + THREAD;
    const u32 g = GROUP(1), first = level.first[g], size = SIZE(level, g);
    u64 to = level.input[g] * words + word;
    AT(wires);
    if (word >= words || size == 1)
        return;
    for (u32 node = first; node < first + size; node++) {
        // Every less but the highest member's, every equal but the lowest chunk's, which there is not.
        if (node + 1 < first + size) {
            out[to] = wires[LESS(node) * words + word];
            to += words;
        }
        if (node > 0) {
            out[to] = wires[(LESS(node) + 1) * words + word];
            to += words;
        }
    }
}

// A group's inputs: lowest less and equal, middle less and equal, highest equal.
typedef struct {
    u64 c, d, a, v, u;
} Inputs;

#define READ(inputs, planes, g)                                        \
    do {                                                               \
        u64 from = level.input[g] * words + word;                      \
        inputs.c = planes[from], from += words;                        \
        inputs.d = 0, inputs.a = 0, inputs.v = 0;                      \
        if (g > 0)                                                     \
            inputs.d = planes[from], from += words;                    \
        if (size == 3) {                                               \
            inputs.a = planes[from], from += words;                    \
            inputs.v = planes[from], from += words;                    \
        }                                                              \
        inputs.u = planes[from];                                       \
    } while (0)

// Products of the masks of a level's inputs, in the order in which `tree_level` reads them.
KERNEL(256) mask_products(GLOBAL u64 *out, IN(u64, masks), Level level, u64 words) {
    const u64 word = (u64)GROUP(0) * 256 + THREAD;
    const u32 g = GROUP(1), size = SIZE(level, g);
    AT(masks);
    if (word >= words || size == 1)
        return;
    Inputs m;
    READ(m, masks, g);
    u64 to = level.product[g] * words + word;
#define PUT(value) out[to] = (value), to += words
    PUT(m.u & m.c);
    if (size == 3) {
        PUT(m.u & m.a);
        PUT(m.u & m.v);
        PUT(m.v & m.c);
        PUT(m.u & m.v & m.c);
        if (g > 0) {
            PUT(m.u & m.d);
            PUT(m.v & m.d);
            PUT(m.u & m.v & m.d);
        }
    } else if (g > 0)
        PUT(m.u & m.d);
}

// A share of x y from opened x ^ m, y ^ n and shares of m, n and m n; of x y z likewise.
#define TIMES2(x, y, m, n, mn) (((x) & (y) & one) ^ ((x) & (n)) ^ ((y) & (m)) ^ (mn))
#define TIMES3(x, y, z, m, n, o, mn, mo, no, mno)                                                                     \
    (((x) & (y) & (z) & one) ^ ((x) & (y) & (o)) ^ ((x) & (z) & (n)) ^ ((y) & (z) & (m)) ^ ((x) & (no)) ^ ((y) & (mo)) ^ \
     ((z) & (mn)) ^ (mno))

// Joins each group's members: less = l3 ^ e3 l2 ^ e3 e2 l1, equal = e3 e2 e1.
KERNEL(256) tree_level(GLOBAL u64 *out, IN(u64, wires), IN(u64, opened), IN(u64, masks), IN(u64, products), Level level, u64 one, u64 words) {
    const u64 word = (u64)GROUP(0) * 256 + THREAD;
    const u32 g = GROUP(1), size = SIZE(level, g), top = level.first[g] + size - 1;
    AT(wires), AT(opened), AT(masks), AT(products);
    if (word >= words)
        return;
    u64 less = wires[LESS(top) * words + word], equal = 0;
    if (size == 1) {
        equal = wires[(LESS(top) + (g > 0)) * words + word];
    } else {
        Inputs x, m;
        READ(x, opened, g);
        READ(m, masks, g);
        u64 from = level.product[g] * words + word;
#define NEXT(name) const u64 name = products[from]; from += words
        NEXT(uc);
        if (size == 2) {
            less ^= TIMES2(x.u, x.c, m.u, m.c, uc);
            if (g > 0)
                equal = TIMES2(x.u, x.d, m.u, m.d, products[from]);
        } else {
            NEXT(ua);
            NEXT(uv);
            NEXT(vc);
            NEXT(uvc);
            less ^= TIMES2(x.u, x.a, m.u, m.a, ua) ^ TIMES3(x.u, x.v, x.c, m.u, m.v, m.c, uv, uc, vc, uvc);
            if (g > 0) {
                NEXT(ud);
                NEXT(vd);
                equal = TIMES3(x.u, x.v, x.d, m.u, m.v, m.d, uv, ud, vd, products[from]);
            }
        }
    }
    out[LESS(g) * words + word] = less;
    if (g > 0)
        out[(LESS(g) + 1) * words + word] = equal;
}

// A share of the plane that says for which a, given by shares of the thermometers of its top three bits, and b, by those bits, the sum
// is 2, 3 or 4 mod 8.
KERNEL(256) outliers(GLOBAL u64 *out, IN(u64, table), IN(u64, b), u64 whole, u64 words) {
    AT(table), AT(b);
    EACH(word, words) {
        u64 flags[8];
        UNROLL
        for (u32 t = 0; t < 8; t++) {
            // a is in low .. high, or outside of high .. low where the interval wraps. That a < 0 is never so.
            const u32 low = (10 - t) % 8, high = (13 - t) % 8;
            const u64 from = low > 0 ? table[(low - 1) * words + word] : 0, to = high > 0 ? table[(high - 1) * words + word] : 0;
            flags[t] = from ^ to ^ (high < low ? whole : 0);
        }
        UNROLL
        for (u32 p = 0; p < 3; p++) {
            const u64 bit = b[p * words + word];
            UNROLL
            for (u32 j = 0; j < 4u >> p; j++)
                flags[j] = CHOOSE(bit, flags[2 * j], flags[2 * j + 1]);
        }
        out[word] = flags[0];
    }
}

// The multiples of the eighth power of a point by powers of x, and those of the point.
typedef struct {
    u64 multiple[64];
} Multiples;

// Runs of `run` blocks of eight words, each lane a polynomial in the eighth power of the point: a thread for each lane of each run, whose
// results are written side by side. What is missing to whole runs is missing before the first block, where zeros add nothing. Elements
// outside of first .. end do not count.
KERNEL(256) polynomial(GLOBAL u64 *out, IN(u64, plane), Multiples multiples, u64 first, u64 end, u64 runs, u64 run) {
    AT(plane);
    const u64 from = first / 64, words = (end + 63) / 64 - from, missing = runs * run - (words + 7) / 8;
    EACH(i, 8 * runs) {
        u64 sum = 0;
        for (u64 block = i / 8 * run; block < (i / 8 + 1) * run; block++) {
            const u64 at = 8 * (block - missing) + i % 8, element = 64 * (from + at);
            u64 next = 0;
            if (block >= missing && at < words) {
                next = plane[from + at];
                if (first > element)
                    next &= ~(u64)0 << (first - element);
                if (end < element + 64)
                    next &= ~(u64)0 >> (element + 64 - end);
            }
            UNROLL
            for (u32 bit = 0; bit < 64; bit++)
                next ^= multiples.multiple[bit] & (0 - (sum >> bit & 1));
            sum = next;
        }
        out[i] = sum;
    }
}
