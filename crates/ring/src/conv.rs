//! Geometry of the linear layers: one description serves convolutions, fully connected layers and pooling sums.

use crate::Shape;

/// A two-dimensional convolution over an NHWC tensor with OHWI weights.
///
/// Shapes: input `[n, h, w, cin]`, weights `[cout, kh, kw, cin / groups]`, output `[n, oh, ow, cout]`.
/// A matrix product `[m, k] x [k, n]` is the 1x1 convolution of [`Conv2d::matmul`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the names are the field's own")]
pub struct Conv2d {
    pub n: usize,
    pub h: usize,
    pub w: usize,
    pub cin: usize,
    pub cout: usize,
    pub kernel: [usize; 2],
    pub stride: [usize; 2],
    pub dilation: [usize; 2],
    /// Zero padding: top, left, bottom, right.
    pub pad: [usize; 4],
    pub groups: usize,
}

/// Why a geometry makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvError {
    /// A size, stride, dilation or group count of zero.
    #[error("a size, stride, dilation or group count is zero")]
    Zero,
    /// Channels are not divisible by the groups.
    #[error("channels are not divisible by the number of groups")]
    Groups,
    /// The kernel does not fit the padded input.
    #[error("the kernel is larger than the padded input")]
    Kernel,
    /// A size overflows or is beyond 2^31 elements.
    #[error("the tensor has more than 2^31 elements")]
    Large,
}

impl Conv2d {
    /// `[m, k] x [k, n]`, the weights given as `[n, k]`.
    #[must_use]
    pub fn matmul(m: usize, k: usize, n: usize) -> Self {
        Self {
            n: 1,
            h: 1,
            w: m,
            cin: k,
            cout: n,
            kernel: [1, 1],
            stride: [1, 1],
            dilation: [1, 1],
            pad: [0; 4],
            groups: 1,
        }
    }

    /// Checks that every size is meaningful, so that kernels need not.
    ///
    /// # Errors
    /// [`ConvError`] says what does not fit.
    pub fn check(&self) -> Result<(), ConvError> {
        let ones = [self.n, self.h, self.w, self.cin, self.cout, self.groups];
        if ones.iter().chain(&self.kernel).chain(&self.stride).chain(&self.dilation).any(|&v| v == 0) {
            return Err(ConvError::Zero);
        }
        if !self.cin.is_multiple_of(self.groups) || !self.cout.is_multiple_of(self.groups) {
            return Err(ConvError::Groups);
        }
        let limit =
            |factors: &[usize]| factors.iter().try_fold(1usize, |a, &b| a.checked_mul(b)).is_some_and(|n| n < 1 << 31);
        let reach = |axis: usize| {
            self.dilation[axis].checked_mul(self.kernel[axis] - 1).and_then(|v| v.checked_add(1)).unwrap_or(usize::MAX)
        };
        let size = |axis: usize, len: usize| len.checked_add(self.pad[axis])?.checked_add(self.pad[axis + 2]);
        let (Some(ph), Some(pw)) = (size(0, self.h), size(1, self.w)) else { return Err(ConvError::Large) };
        if reach(0) > ph || reach(1) > pw {
            return Err(ConvError::Kernel);
        }
        let weights = [self.cout, self.kernel[0], self.kernel[1], self.cin / self.groups];
        let output = [self.n, self.out_h(), self.out_w(), self.cout];
        if limit(&[self.n, ph, pw, self.cin]) && limit(&weights) && limit(&output) {
            Ok(())
        } else {
            Err(ConvError::Large)
        }
    }

    /// Output height.
    #[must_use]
    pub fn out_h(&self) -> usize {
        (self.h + self.pad[0] + self.pad[2] - self.dilation[0] * (self.kernel[0] - 1) - 1) / self.stride[0] + 1
    }
    /// Output width.
    #[must_use]
    pub fn out_w(&self) -> usize {
        (self.w + self.pad[1] + self.pad[3] - self.dilation[1] * (self.kernel[1] - 1) - 1) / self.stride[1] + 1
    }
    /// Shape of the input.
    #[must_use]
    pub fn input(&self) -> Shape {
        Shape::new(&[self.n, self.h, self.w, self.cin])
    }
    /// Shape of the weights.
    #[must_use]
    pub fn weight(&self) -> Shape {
        Shape::new(&[self.cout, self.kernel[0], self.kernel[1], self.cin / self.groups])
    }
    /// Shape of the output.
    #[must_use]
    pub fn output(&self) -> Shape {
        Shape::new(&[self.n, self.out_h(), self.out_w(), self.cout])
    }
    /// Multiplications of one plain evaluation.
    #[must_use]
    pub fn macs(&self) -> u64 {
        self.output().len() as u64 * (self.kernel[0] * self.kernel[1] * (self.cin / self.groups)) as u64
    }
    /// What a kernel prepared with a gain multiplies results with: 4 where Winograd's F(2x2, 3x3) is faster (its weights
    /// are transformed by doubled matrices to stay integers), else 1. A fact of the geometry: all devices agree on it.
    #[must_use]
    pub fn gain(&self) -> u64 {
        // Few tiles do not pay for reading 16 matrices of weights.
        self.gain_from(49)
    }
    /// The same for weights that are used once: more tiles must pay for their transforms too.
    #[must_use]
    pub fn gain_once(&self) -> u64 {
        self.gain_from(256)
    }
    fn gain_from(&self, least: usize) -> u64 {
        let unit = self.kernel == [3, 3] && self.stride == [1, 1] && self.dilation == [1, 1] && self.groups == 1;
        let tiles = self.n * self.out_h().div_ceil(2) * self.out_w().div_ceil(2);
        // Few channels do not pay for the transforms of images.
        if unit && self.cin >= 16 && self.cout >= 16 && tiles >= least { 4 } else { 1 }
    }
    /// True for one input and one output channel a group.
    #[must_use]
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.cin && self.groups == self.cout
    }
    /// True when every output pixel reads exactly the input pixel at its own position.
    #[must_use]
    pub fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.pad == [0; 4]
    }
}

/// Sums over spatial windows of an NHWC tensor `[n, h, w, c]`; zero outside. Output `[n, oh, ow, c]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct WindowSum(pub Conv2d);
