//! The table that AES's rounds look up on the device: public, and the same for every key.

/// AES's S-box from its definition (FIPS-197, section 5.1.1): the inverse in GF(2^8), then an affine map.
fn sbox() -> [u8; 256] {
    let times = |a: u8, b: u8| (0..8).rev().fold(0, |p, i| double(p) ^ if b >> i & 1 == 1 { a } else { 0 });
    std::array::from_fn(|x| {
        // x^254 is the inverse, and 0 of 0.
        let i = (0..254).fold(1, |p, _| times(p, x as u8));
        i ^ i.rotate_left(1) ^ i.rotate_left(2) ^ i.rotate_left(3) ^ i.rotate_left(4) ^ 0x63
    })
}

fn double(a: u8) -> u8 {
    a << 1 ^ if a & 0x80 == 0x80 { 0x1b } else { 0 }
}

/// For each byte, the column that its substitute contributes when columns are mixed.
pub(crate) fn columns() -> Vec<u32> {
    sbox().iter().map(|&s| u32::from_le_bytes([double(s), s, s, double(s) ^ s])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_of_the_standard() {
        let s = sbox();
        assert_eq!([s[0], s[1], s[0x53], s[0xff]], [0x63, 0x7c, 0xed, 0x16]);
    }
}
