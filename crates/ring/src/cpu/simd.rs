//! Run-time choice of instruction set: one body, compiled three times.

/// The instruction set that kernels use. Results never depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(pub(super) Level);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl std::fmt::Display for Isa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "AVX-512",
        })
    }
}

impl Isa {
    /// The best this processor has.
    #[must_use]
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self(Level::Portable))
    }

    /// All that this processor can run, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86-64 has more than one")]
        let mut found = vec![Self(Level::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
                found.push(Self(Level::Avx2));
            }
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("bmi2");
            if wide {
                found.push(Self(Level::Avx512));
            }
        }
        found
    }
}

/// Defines a function whose body is compiled for each instruction set; the first argument of the result is the [`Isa`].
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $(<$g:ident : $bound:ident>)? ($($arg:ident : $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, reason = "kernels take flat slices")]
        $vis fn $name $(<$g: $bound>)? (isa: $crate::cpu::simd::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments, reason = "kernels take flat slices")]
            fn body $(<$g: $bound>)? ($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,bmi2")]
            #[allow(clippy::too_many_arguments, reason = "kernels take flat slices")]
            fn avx512 $(<$g: $bound>)? ($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,bmi2")]
            #[allow(clippy::too_many_arguments, reason = "kernels take flat slices")]
            fn avx2 $(<$g: $bound>)? ($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            match isa.0 {
                $crate::cpu::simd::Level::Portable => body($($arg),*),
                // SAFETY: an `Isa` of this level is made only by `Isa::available`, after detecting its features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}
pub(super) use dispatch;
