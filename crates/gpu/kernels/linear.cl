// Replicated convolution as one implicit matrix product: rows are output pixels, columns output channels, and the inner
// dimension runs over taps, within a tap over (x0, x1), within a component over input channels.

#define TILE 64
#define DEPTH 16

// A product mod 2^64 takes three multiply-adds of halves: one wide, and two that only reach the high half. Both are summed apart.
#define MULTIPLY_ADD(sum, high, a, b)                                                                 \
    do {                                                                                              \
        sum += (u64)(u32)(a) * (u32)(b);                                                              \
        high += (u32)(a) * (u32)((b) >> 32) + (u32)((a) >> 32) * (u32)(b);                            \
    } while (0)

// Adds up what two tiles of 16 deep give a thread: rows ty + 16 i, columns tx + 16 j.
#define TILES(sum, high, xs, ws)                                                                      \
    UNROLL                                                                                            \
    for (u32 kk = 0; kk < DEPTH; kk++) {                                                              \
        u64 a[4], b[4];                                                                               \
        UNROLL                                                                                        \
        for (u32 i = 0; i < 4; i++)                                                                   \
            a[i] = xs[kk][ty + 16 * i], b[i] = ws[kk][tx + 16 * i];                                   \
        UNROLL                                                                                        \
        for (u32 i = 0; i < 4; i++)                                                                   \
            UNROLL                                                                                    \
            for (u32 j = 0; j < 4; j++)                                                               \
                MULTIPLY_ADD(sum[i][j], high[i][j], a[i], b[j]);                                      \
    }

// The z axis: groups of channels, and within a group so many parts of the inner dimension, whose sums lie one after the other.
KERNEL(256) linear(GLOBAL u64 *out, IN(u64, x0), IN(u64, x1), IN(u64, panel), Geometry op, u32 parts) {
    LOCAL u64 xs[DEPTH][TILE + 1];
    LOCAL u64 ws[DEPTH][TILE];
    const u32 row0 = GROUP(0) * TILE, column0 = GROUP(1) * TILE, group = GROUP(2) / parts, part = GROUP(2) % parts;
    const u32 tx = THREAD % 16, ty = THREAD / 16, inner = 2 * op.kh * op.kw * op.ci, first = part * op.depth;
    const u32 end = inner - first < op.depth ? inner : first + op.depth;
    AT(x0), AT(x1), AT(panel);
    u64 sum[4][4] = {{0}};
    u32 high[4][4] = {{0}};
    // What lies before an image, or belongs to a pixel past the end, wraps round to beyond every image.
    u32 y0[4], z0[4], image[4];
    UNROLL
    for (u32 i = 0; i < 4; i++) {
        const u32 pixel = row0 + ty + 16 * i, within = pixel % (op.oh * op.ow);
        image[i] = pixel / (op.oh * op.ow);
        y0[i] = pixel < op.pixels ? within / op.ow * op.stride_y - op.top : 0x80000000u;
        z0[i] = within % op.ow * op.stride_x - op.left;
    }
    for (u32 k0 = first; k0 < end; k0 += DEPTH) {
        const u32 k = k0 + tx, tap = k / (2 * op.ci), rest = k % (2 * op.ci);
        const u32 dy = tap / op.kw * op.dilation_y, dx = tap % op.kw * op.dilation_x;
        GLOBAL const u64 *x = rest < op.ci ? x0 : x1;
        const u32 channel = group * op.ci + (rest < op.ci ? rest : rest - op.ci);
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            const u32 y = y0[i] + dy, z = z0[i] + dx, inside = k < end && y < op.h && z < op.w;
            xs[tx][ty + 16 * i] = inside ? x[((u64)(image[i] * op.h + y) * op.w + z) * op.cin + channel] : 0;
        }
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            const u32 kk = k0 + THREAD / TILE + 4 * i, column = column0 + THREAD % TILE;
            const u32 inside = kk < end && column < op.co;
            ws[THREAD / TILE + 4 * i][THREAD % TILE] = inside ? panel[((u64)group * inner + kk) * op.co + column] : 0;
        }
        BARRIER();
        TILES(sum, high, xs, ws)
        BARRIER();
    }
    UNROLL
    for (u32 i = 0; i < 4; i++)
        UNROLL
        for (u32 j = 0; j < 4; j++) {
            const u32 pixel = row0 + ty + 16 * i, column = column0 + tx + 16 * j;
            if (pixel < op.pixels && column < op.co)
                out[((u64)part * op.pixels + pixel) * op.cout + group * op.co + column] = sum[i][j] + ((u64)high[i][j] << 32);
        }
}

// The panel of `linear` and `depthwise` from OHWI weights, times the gain.
KERNEL(256) prepare(GLOBAL u64 *panel, IN(u64, w0), IN(u64, w1), Geometry op, u64 n, u64 gain) {
    const u32 taps = op.kh * op.kw, inner = 2 * taps * op.ci;
    AT(w0), AT(w1);
    EACH(i, n) {
        const u64 row = i / op.co, group = row / inner;
        const u32 k = row % inner, tap = k / (2 * op.ci), rest = k % (2 * op.ci), first = rest < op.ci;
        const u64 output = group * op.co + i % op.co;
        const u64 from = (output * taps + tap) * op.ci + (first ? rest : rest - op.ci);
        panel[i] = gain * (w0[from] + (first ? w1[from] : 0));
    }
}

// One input and one output channel a group: a thread for each output, channels side by side.
KERNEL(256) depthwise(GLOBAL u64 *out, IN(u64, x0), IN(u64, x1), IN(u64, panel), Geometry op, u64 n) {
    AT(x0), AT(x1), AT(panel);
    EACH(i, n) {
        const u32 channel = i % op.cout, pixel = i / op.cout;
        const u32 image = pixel / (op.oh * op.ow), oy = pixel / op.ow % op.oh, ox = pixel % op.ow;
        GLOBAL const u64 *w = panel + (u64)channel * 2 * op.kh * op.kw;
        u64 sum = 0;
        for (u32 tap = 0; tap < op.kh * op.kw; tap++) {
            const u32 y = oy * op.stride_y + tap / op.kw * op.dilation_y - op.top, z = ox * op.stride_x + tap % op.kw * op.dilation_x - op.left;
            if (y < op.h && z < op.w) {
                const u64 at = ((u64)(image * op.h + y) * op.w + z) * op.cin + channel;
                sum += x0[at] * w[2 * tap] + x1[at] * w[2 * tap + 1];
            }
        }
        out[i] = sum;
    }
}

// x0 (w0 + w1)^T + x1 w0^T for few rows: a group of threads for each output and row, weights read as they lie.
KERNEL(256) full(GLOBAL u64 *out, IN(u64, x0), IN(u64, x1), IN(u64, w0), IN(u64, w1), u64 depth, u32 outputs) {
    LOCAL u64 sums[256];
    AT(x0), AT(x1), AT(w0), AT(w1);
    const u64 x = GROUP(0) / outputs * depth, w = GROUP(0) % outputs * depth;
    u64 sum = 0;
    for (u64 k = THREAD; k < depth; k += 256)
        sum += x0[x + k] * (w0[w + k] + w1[w + k]) + x1[x + k] * w0[w + k];
    sums[THREAD] = sum;
    BARRIER();
    for (u32 left = 128; left > 0; left /= 2) {
        if (THREAD < left)
            sums[THREAD] += sums[THREAD + left];
        BARRIER();
    }
    if (THREAD == 0)
        out[GROUP(0)] = sums[0];
}

// The sum of so many parts of n elements each.
KERNEL(256) add_parts(GLOBAL u64 *out, IN(u64, x), u64 n, u32 parts) {
    AT(x);
    EACH(i, n) {
        u64 sum = 0;
        for (u32 part = 0; part < parts; part++)
            sum += x[part * n + i];
        out[i] = sum;
    }
}

// The gradient of the weights: rows are taps and input channels, columns output channels, and the inner dimension output pixels, those
// of dy0 (x0 + x1) before those of dy1 x0. Parts as in `linear`.
KERNEL(256) gradient(GLOBAL u64 *out, IN(u64, x0), IN(u64, x1), IN(u64, dy0), IN(u64, dy1), Geometry op, u32 parts) {
    LOCAL u64 xs[DEPTH][TILE];
    LOCAL u64 ws[DEPTH][TILE];
    const u32 row0 = GROUP(0) * TILE, column0 = GROUP(1) * TILE, group = GROUP(2) / parts, part = GROUP(2) % parts;
    const u32 tx = THREAD % 16, ty = THREAD / 16, rows = op.kh * op.kw * op.ci;
    const u64 inner = 2 * (u64)op.pixels, first = (u64)part * op.depth, end = inner - first < op.depth ? inner : first + op.depth;
    // The row that this thread loads, and where it is in a window.
    const u32 row = row0 + THREAD % TILE, tap = row / op.ci, channel = group * op.ci + row % op.ci, column = column0 + THREAD % TILE;
    const u32 dy = tap / op.kw * op.dilation_y - op.top, dx = tap % op.kw * op.dilation_x - op.left;
    AT(x0), AT(x1), AT(dy0), AT(dy1);
    u64 sum[4][4] = {{0}};
    u32 high[4][4] = {{0}};
    for (u64 k0 = first; k0 < end; k0 += DEPTH) {
        UNROLL
        for (u32 i = 0; i < 4; i++) {
            const u32 at = THREAD / TILE + 4 * i;
            const u64 k = k0 + at;
            const u32 second = k >= op.pixels, pixel = (u32)(second ? k - op.pixels : k);
            const u32 image = pixel / (op.oh * op.ow), y = pixel / op.ow % op.oh * op.stride_y + dy, z = pixel % op.ow * op.stride_x + dx;
            u64 value = 0, other = 0;
            if (k < end && row < rows && y < op.h && z < op.w) {
                const u64 from = ((u64)(image * op.h + y) * op.w + z) * op.cin + channel;
                value = x0[from];
                if (!second)
                    value += x1[from];
            }
            if (k < end && column < op.co) {
                const u64 from = (u64)pixel * op.cout + group * op.co + column;
                other = second ? dy1[from] : dy0[from];
            }
            xs[at][THREAD % TILE] = value;
            ws[at][THREAD % TILE] = other;
        }
        BARRIER();
        TILES(sum, high, xs, ws)
        BARRIER();
    }
    UNROLL
    for (u32 i = 0; i < 4; i++)
        UNROLL
        for (u32 j = 0; j < 4; j++) {
            const u32 r = row0 + ty + 16 * i, c = column0 + tx + 16 * j;
            if (r < rows && c < op.co)
                out[((u64)part * op.cout + group * op.co + c) * rows + r] = sum[i][j] + ((u64)high[i][j] << 32);
        }
}

// The same for one input and one output channel a group: a thread for each channel, the y axis taps, the z axis parts.
KERNEL(256) depthwise_gradient(GLOBAL u64 *out, IN(u64, x0), IN(u64, x1), IN(u64, dy0), IN(u64, dy1), Geometry op) {
    const u32 channel = GROUP(0) * 256 + THREAD, tap = GROUP(1), taps = op.kh * op.kw, first = GROUP(2) * op.depth;
    const u32 end = op.pixels - first < op.depth ? op.pixels : first + op.depth;
    AT(x0), AT(x1), AT(dy0), AT(dy1);
    if (channel >= op.cout)
        return;
    u64 sum = 0;
    for (u32 pixel = first; pixel < end; pixel++) {
        const u32 image = pixel / (op.oh * op.ow), oy = pixel / op.ow % op.oh, ox = pixel % op.ow;
        const u32 y = oy * op.stride_y + tap / op.kw * op.dilation_y - op.top, z = ox * op.stride_x + tap % op.kw * op.dilation_x - op.left;
        if (y < op.h && z < op.w) {
            const u64 at = ((u64)(image * op.h + y) * op.w + z) * op.cin + channel, from = (u64)pixel * op.cout + channel;
            sum += dy0[from] * (x0[at] + x1[at]) + dy1[from] * x0[at];
        }
    }
    out[((u64)GROUP(2) * op.cout + channel) * taps + tap] = sum;
}
