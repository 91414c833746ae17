//! The machine words a ring element is held in.

/// A buffer of either word, for where the width is a run-time fact.
pub enum Words {
    /// 32-bit words.
    Narrow(Vec<u32>),
    /// 64-bit words.
    Wide(Vec<u64>),
}

/// An element of Z/2^k held in one machine word: `u32` (k = 32, the narrow ring) or `u64` (k = 64, the wide ring).
///
/// All operations wrap; that is the ring's arithmetic, not an overflow.
pub trait Word: bytemuck::Pod + Send + Sync + PartialEq + 'static {
    /// Width k in bits.
    const BITS: u32;
    /// a + b mod 2^k.
    fn add(self, other: Self) -> Self;
    /// a - b mod 2^k.
    fn sub(self, other: Self) -> Self;
    /// a * b mod 2^k.
    fn mul(self, other: Self) -> Self;
    /// The residue of a signed integer mod 2^k.
    fn from_i64(value: i64) -> Self;
    /// The representative in [-2^(k-1), 2^(k-1)).
    fn to_i64(self) -> i64;
    /// A buffer with its width as a value.
    fn into_words(buf: Vec<Self>) -> Words;
    /// The buffer, if it has this width.
    fn from_words(words: Words) -> Option<Vec<Self>>;
}

macro_rules! word {
    ($word:ty, $signed:ty, $name:ident) => {
        impl Word for $word {
            const BITS: u32 = <$word>::BITS;
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.wrapping_mul(other)
            }
            #[inline(always)]
            fn from_i64(value: i64) -> Self {
                value as $word
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as $signed as i64
            }
            fn into_words(buf: Vec<Self>) -> Words {
                Words::$name(buf)
            }
            fn from_words(words: Words) -> Option<Vec<Self>> {
                match words {
                    Words::$name(buf) => Some(buf),
                    _ => None,
                }
            }
        }
    };
}

word!(u32, i32, Narrow);
word!(u64, i64, Wide);
