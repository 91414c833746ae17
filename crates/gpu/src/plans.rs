//! Public plans as kernels take them: by value, so that a launch uploads nothing.

use bytemuck::{Pod, Zeroable};
use sordino_ring::{Comparison, Conv2d, LANES, LanePoint, field_product};

/// `Geometry` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Geometry([u32; 18]);

impl Geometry {
    /// A convolution whose inner dimension is added up in pieces of `depth`.
    pub(crate) fn new(op: &Conv2d, depth: usize) -> Self {
        let of_image = [op.h, op.w, op.cin, op.cout];
        let of_window = [op.kernel, op.stride, op.dilation].concat();
        let rest =
            [op.pad[0], op.pad[1], op.out_h(), op.out_w(), op.cin / op.groups, op.cout / op.groups, pixels(op), depth];
        let mut all = [0; 18];
        let values = of_image.iter().chain(&of_window).chain(&rest);
        all.iter_mut().zip(values).for_each(|(to, v)| *to = *v as u32);
        Self(all)
    }
}

/// Output pixels of all images.
pub(crate) fn pixels(op: &Conv2d) -> usize {
    op.n * op.out_h() * op.out_w()
}

/// `Chunks` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Chunks {
    width: [u32; 64],
    plane: [u32; 64],
    leaf: [u32; 64],
}

impl Chunks {
    pub(crate) fn new(cmp: &Comparison) -> Self {
        let mut all = Self::zeroed();
        let (mut plane, mut leaf) = (0, 0);
        for (i, &width) in cmp.chunks().iter().enumerate() {
            (all.width[i], all.plane[i], all.leaf[i]) = (width, plane, leaf);
            plane += width;
            leaf += (1 << width) - 1;
        }
        all
    }
}

/// `Level` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct Level {
    first: [u32; 22],
    input: [u32; 22],
    product: [u32; 22],
    nodes: u32,
}

impl Level {
    pub(crate) fn new(cmp: &Comparison, level: usize) -> Self {
        let mut all = Self { nodes: cmp.nodes(level) as u32, ..Self::zeroed() };
        let (mut input, mut product) = (0, 0);
        for (i, group) in cmp.groups(level).enumerate() {
            (all.first[i], all.input[i], all.product[i]) = (group.first as u32, input, product);
            input += group.opened() as u32;
            product += group.products() as u32;
        }
        all
    }
}

/// How a plane's words are hashed in runs ([`sordino_ring::Device::polynomial`]).
pub(crate) struct Hash {
    pub(crate) point: LanePoint,
    /// Runs, and blocks of a word a lane in each.
    pub(crate) runs: usize,
    pub(crate) run: usize,
}

impl Hash {
    /// For so many words: enough runs to fill a card, long enough to be worth a thread.
    pub(crate) fn new(words: usize, point: u64) -> Self {
        let blocks = words.div_ceil(LANES);
        let run = blocks.div_ceil(2048).max(4);
        Self { point: LanePoint::new(point), runs: blocks.div_ceil(run), run }
    }

    /// What the lanes of all runs come to.
    pub(crate) fn joined(&self, lanes: &[u64]) -> u64 {
        // The lanes' point to the power of a run's length.
        let (mut jump, mut square, mut left) = (1, self.point.step(), self.run);
        while left > 0 {
            if left & 1 == 1 {
                jump = field_product(jump, square);
            }
            square = field_product(square, square);
            left >>= 1;
        }
        let mut sums = [0; LANES];
        for run in lanes.chunks_exact(LANES) {
            sums.iter_mut().zip(run).for_each(|(s, v)| *s = field_product(*s, jump) ^ v);
        }
        self.point.joined(sums)
    }
}
