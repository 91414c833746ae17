// Between the wide ring and the narrow one.

KERNEL(256) low(GLOBAL u32 *out, IN(u64, x), u64 n) {
    AT(x);
    EACH(i, n)
        out[i] = (u32)x[i];
}

// ((x + add) without its highest `unused` bits >> shift) + plus - minus.
KERNEL(256) truncate(GLOBAL u32 *out, IN(u64, x), u64 add, u32 unused, u32 shift, IN(u32, plus), IN(u32, minus), u64 n) {
    AT(x), AT(plus), AT(minus);
    EACH(i, n)
        out[i] = (u32)((x[i] + add) << unused >> (shift + unused)) + plus[i] - minus[i];
}

// (y mod 2^bits) + 2^bits w, with w = keep opened + (1 - 2 own) (1 - 2 opened) product, less 1 + own opened where first is 1.
KERNEL(256) widen(GLOBAL u64 *out, IN(u32, y), u32 bits, u32 first, IN(u64, keep), IN(u64, own), IN(u64, opened), IN(u32, product), u64 n) {
    AT(y), AT(keep), AT(own), AT(opened), AT(product);
    const u32 mask = 0xffffffffu >> (32 - bits);
    EACH(i, n) {
        const u32 at = i % 64, a = keep[i / 64] >> at & 1, b = own[i / 64] >> at & 1, c = opened[i / 64] >> at & 1;
        // (1 - 2b) (1 - 2c) = 1 - 2 (b xor c)
        const u32 high = (a & c) - first * (1 + (b & c)) + (1 - 2 * (b ^ c)) * product[i];
        out[i] = (u64)(y[i] & mask) | (u64)high << bits;
    }
}

KERNEL(256) conjunction(GLOBAL u64 *out, IN(u64, a), IN(u64, b), u64 n) {
    AT(a), AT(b);
    EACH(i, n)
        out[i] = a[i] & b[i];
}
