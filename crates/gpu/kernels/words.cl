// Kernels that exist for both words, W.

KERNEL(256) NAME(add)(GLOBAL W *out, IN(W, a), IN(W, b), u64 n) {
    AT(a), AT(b);
    EACH(i, n)
        out[i] = a[i] + b[i];
}

KERNEL(256) NAME(sub)(GLOBAL W *out, IN(W, a), IN(W, b), u64 n) {
    AT(a), AT(b);
    EACH(i, n)
        out[i] = a[i] - b[i];
}

KERNEL(256) NAME(exclusive)(GLOBAL W *out, IN(W, a), IN(W, b), u64 n) {
    AT(a), AT(b);
    EACH(i, n)
        out[i] = a[i] ^ b[i];
}

KERNEL(256) NAME(hadamard)(GLOBAL W *out, IN(W, a), IN(W, b), u64 n) {
    AT(a), AT(b);
    EACH(i, n)
        out[i] = a[i] * b[i];
}

// x + row, row after row.
KERNEL(256) NAME(add_rows)(GLOBAL W *out, IN(W, x), IN(W, row), u64 n, u64 width) {
    AT(x), AT(row);
    EACH(i, n)
        out[i] = x[i] + row[i % width];
}

KERNEL(256) NAME(affine)(GLOBAL W *out, IN(W, x), W mul, W add, u64 n) {
    AT(x);
    EACH(i, n)
        out[i] = x[i] * mul + add;
}

// x0 (y0 + y1) + x1 y0.
KERNEL(256) NAME(product)(GLOBAL W *out, IN(W, x0), IN(W, x1), IN(W, y0), IN(W, y1), u64 n) {
    AT(x0), AT(x1), AT(y0), AT(y1);
    EACH(i, n)
        out[i] = x0[i] * (y0[i] + y1[i]) + x1[i] * y0[i];
}

// Puts rows of one part at their place in rows of the whole.
KERNEL(256) NAME(rows)(GLOBAL W *out, IN(W, part), u64 n, u64 width, u64 whole, u64 place) {
    AT(part);
    EACH(i, n)
        out[i / width * whole + place + i % width] = part[i];
}

KERNEL(256) NAME(gather)(GLOBAL W *out, IN(W, x), IN(u32, map), W fill, u64 n) {
    AT(x), AT(map);
    EACH(i, n)
        out[i] = map[i] == 0xffffffffu ? fill : x[map[i]];
}

// Sums over windows: a thread for each output, channels side by side.
KERNEL(256) NAME(window_sum)(GLOBAL W *out, IN(W, x), Geometry op, u64 n) {
    AT(x);
    EACH(i, n) {
        const u32 channel = i % op.cin, pixel = i / op.cin;
        const u32 image = pixel / (op.oh * op.ow), oy = pixel / op.ow % op.oh, ox = pixel % op.ow;
        W sum = 0;
        for (u32 ky = 0; ky < op.kh; ky++)
            for (u32 kx = 0; kx < op.kw; kx++) {
                // What lies before the image wraps round to beyond it.
                const u32 y = oy * op.stride_y + ky * op.dilation_y - op.top, z = ox * op.stride_x + kx * op.dilation_x - op.left;
                if (y < op.h && z < op.w)
                    sum += x[((u64)(image * op.h + y) * op.w + z) * op.cin + channel];
            }
        out[i] = sum;
    }
}

// The low bits of each element side by side: a thread for each word, which reads the elements that reach into it.
KERNEL(256) NAME(pack)(GLOBAL u64 *out, IN(W, x), u64 n, u32 bits, u64 words) {
    AT(x);
    const u64 mask = ~(u64)0 >> (64 - bits);
    EACH(i, words) {
        u64 word = 0;
        for (u64 e = 64 * i / bits; e < n && e * bits < 64 * i + 64; e++) {
            const u64 value = EXTENDED(x[e]) & mask;
            word |= e * bits >= 64 * i ? value << (e * bits - 64 * i) : value >> (64 * i - e * bits);
        }
        out[i] = word;
    }
}

// Back from words, of which missing ones are zero.
KERNEL(256) NAME(unpack)(GLOBAL W *out, IN(u64, words), u64 count, u64 n, u32 bits) {
    AT(words);
    const u64 mask = ~(u64)0 >> (64 - bits);
    EACH(i, n) {
        const u64 word = i * bits / 64;
        const u32 used = i * bits % 64;
        u64 value = word < count ? words[word] >> used : 0;
        if (used + bits > 64 && word + 1 < count)
            value |= words[word + 1] << (64 - used);
        out[i] = (W)(value & mask);
    }
}

// Bit planes from .. from + count: a group turns 64 elements into one word of each plane.
KERNEL(64) NAME(planes)(GLOBAL u64 *out, IN(W, x), u64 n, u64 words, u32 from, u32 count) {
    LOCAL W block[64];
    const u64 element = (u64)GROUP(0) * 64 + THREAD;
    AT(x);
    block[THREAD] = element < n ? x[element] : 0;
    BARRIER();
    if (THREAD < count) {
        u64 plane = 0;
        UNROLL
        for (u32 e = 0; e < 64; e++)
            plane |= (u64)(block[e] >> (from + THREAD) & 1) << e;
        out[THREAD * words + GROUP(0)] = plane;
    }
}

KERNEL(256) NAME(expand)(GLOBAL W *out, IN(u64, plane), u64 n) {
    AT(plane);
    EACH(i, n)
        out[i] = (W)(plane[i / 64] >> i % 64 & 1);
}

// e x + (1 - 2e) (r b + q).
KERNEL(256) NAME(select)(GLOBAL W *out, IN(u64, e), IN(W, x), IN(W, b), IN(W, r), IN(W, q), u64 n) {
    AT(e), AT(x), AT(b), AT(r), AT(q);
    EACH(i, n) {
        const W bit = (W)(e[i / 64] >> i % 64 & 1), value = r[i] * b[i] + q[i];
        // Without a branch: what it takes does not depend on the bit.
        out[i] = bit * x[i] + (1 - 2 * bit) * value;
    }
}
