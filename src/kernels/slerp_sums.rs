//! Sums of a\*a, b\*b and a\*b in twice f32's precision, and what of them can be trusted.
//! See slerp_sums.wgsl.

use crate::dtype::{Dtype, widen};
use crate::gpu::{Binding, Kernel};

use super::weights::{Decoder, per_load};
use super::{Grid, fold, weights};

/// Elements that one workgroup sums; blocks begin at multiples of it, whatever the chunks in which
/// a tensor arrived and the buffers over which it is spread.
pub const BLOCK: u32 = 4096;

/// f32 words that the kernel writes per block: sums, the largest |a|, what the sums' roundings
/// lost, the largest |b|.
pub const WORDS_PER_BLOCK: u32 = 8;

/// Layout of `Params` in slerp_sums.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Params {
    /// 16-byte loads of each tensor in the buffers.
    pub loads: u32,
    /// Place of the buffers' first block among the sums.
    pub first_block: u32,
    /// 0, which the compiler must not know.
    pub zero: u32,
    /// Uniform structs are multiples of 16 bytes.
    pub padding: u32,
}

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[
    Binding::uniform("params", size_of::<Params>()),
    Binding::read("a"),
    Binding::read("b"),
    Binding::write("sums"),
];

/// Which steps of a sum compilers must not see through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opaque {
    /// Sums alone, which is enough where compilers do not reassociate floats: of BF16 and F16 24 operations for 33.
    Sums,
    /// Each step.
    Each,
}

impl Opaque {
    /// Both, the faster one first.
    pub const ALL: [Opaque; 2] = [Opaque::Sums, Opaque::Each];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Opaque::Sums => "sums opaque",
            Opaque::Each => "each step opaque",
        }
    }
}

/// The kernel for tensors of `dtype`: F32, BF16 or F16; `None` for any other.
pub fn kernel(dtype: Dtype, opaque: Opaque) -> Option<Kernel> {
    let product = match dtype {
        Dtype::F32 => wgsl!("shared/product_long.wgsl"),
        Dtype::Bf16 | Dtype::F16 => wgsl!("shared/product_short.wgsl"),
        _ => return None,
    };
    Some(Kernel {
        name: "slerp_sums",
        parts: vec![
            weights::wgsl(dtype, Decoder::Safe)?,
            wgsl!("shared/opaque.wgsl"),
            wgsl!("shared/two_sum.wgsl"),
            product,
            wgsl!("slerp_sums.wgsl"),
        ],
        constants: vec![
            ("BLOCK_LOADS", f64::from(BLOCK / per_load(dtype))),
            ("EACH", if opaque == Opaque::Each { 1.0 } else { 0.0 }),
        ],
        bindings: BINDINGS,
    })
}

/// Workgroups for so many elements.
pub fn grid(elements: u32) -> Grid {
    let (x, z) = fold(elements.div_ceil(BLOCK));
    [x, 1, z]
}

/// The sums of whole tensors, block by block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Sums of a\*a, b\*b and a\*b.
    pub sums: [f64; 3],
    /// Largest |a| and |b|.
    pub largest: [f32; 2],
}

impl Totals {
    /// Adds what the kernel has written, in the order of the blocks.
    pub fn add(&mut self, blocks: &[f32]) {
        for block in blocks.as_chunks::<{ WORDS_PER_BLOCK as usize }>().0 {
            let [aa, bb, ab, most_a, aa_lost, bb_lost, ab_lost, most_b] = *block;
            let pairs = [(aa, aa_lost), (bb, bb_lost), (ab, ab_lost)];
            for (sum, (high, low)) in self.sums.iter_mut().zip(pairs) {
                *sum += f64::from(high) + f64::from(low);
            }
            for (most, of_block) in self.largest.iter_mut().zip([most_a, most_b]) {
                // The order of magnitudes is that of their bits, with what is not finite on top.
                *most = f32::from_bits(most.to_bits().max(of_block.to_bits()));
            }
        }
    }

    /// The sums of `elements` elements of `dtype`, if they are as good as f64's: no value is infinite,
    /// NaN or so large that a square overflows, and none so small that what underflow may have taken
    /// from the sums shows. A tensor of zeros is fine.
    pub fn usable(&self, dtype: Dtype, elements: u64) -> Option<[f64; 3]> {
        // The safe decoder of F16 turns what is not finite into values above its range.
        let too_large = if dtype == Dtype::F16 { 65_536.0 } else { LARGEST };
        let [aa, bb, ab] = self.sums;
        for (sum, most) in [(aa, self.largest[0]), (bb, self.largest[1])] {
            let zero = most == 0.0 && sum == 0.0;
            // Written so that NaN fails.
            let in_range =
                most < too_large && sum.is_finite() && sum >= elements as f64 * SMALLEST_MEAN_SQUARE;
            if !(zero || in_range) {
                return None;
            }
        }
        // Cauchy and Schwarz: a sum beyond is no sum of these products.
        (ab.abs() <= (aa * bb).sqrt() * (1.0 + 1e-6)).then_some(self.sums)
    }
}

/// 2^56: the sum of a block's squares stays below 2^124.
const LARGEST: f32 = 72_057_594_037_927_936.0;

/// 2^-76. An adapter that flushes subnormals loses at most a few times 2^-126 per element: less than
/// 2^-47 of such a mean square.
const SMALLEST_MEAN_SQUARE: f64 = 1.323_488_980_084_844_3e-23;

/// How far a sum may be off in the start-up test, relative to |a| |b|: f32 alone is off by a
/// thousand times as much at least.
pub const TOLERANCE: f64 = 9.1e-13;

/// Two tensors of `dtype` for the start-up test, packed: several blocks and a ragged end, of values
/// over seven orders of magnitude, with products that cancel.
pub fn test_data(dtype: Dtype) -> [Vec<u8>; 2] {
    let mut state = 1_u32;
    let mut value = || {
        // Numerical Recipes' generator; its upper bits are random enough.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let fraction = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let scales = [1.0, 1.0, 1.0, 1e-3, 1e-7, 30.0, 0.1, 1.0];
        fraction * scales.get((state >> 5) as usize % scales.len()).copied().unwrap_or(1.0)
    };
    let mut values = [Vec::new(), Vec::new()];
    let [a, b] = &mut values;
    for _ in 0..BLOCK + 2077 {
        let (x, y) = (value(), value());
        a.extend([x, x]);
        b.extend([y, -0.999 * y]);
    }
    values.map(|mut values| {
        values.pop();
        let mut packed = Vec::new();
        // Only dtypes of floats have a kernel.
        let _ = crate::dtype::narrow(dtype, &values, &mut packed);
        packed
    })
}

/// Sums of a\*a, b\*b and a\*b of packed tensors in f64.
pub fn plain_sums(dtype: Dtype, packed: [&[u8]; 2]) -> [f64; 3] {
    let [a, b] = packed.map(|bytes| {
        let mut values = Vec::new();
        // Only dtypes of floats have a kernel.
        let _ = widen(dtype, bytes, &mut values);
        values
    });
    let mut sums = [0.0; 3];
    for (x, y) in a.iter().zip(&b).map(|(x, y)| (f64::from(*x), f64::from(*y))) {
        for (sum, product) in sums.iter_mut().zip([x * x, y * y, x * y]) {
            *sum += product;
        }
    }
    sums
}

/// Whether sums are those wanted, as far as f64 can tell.
pub fn exact(got: [f64; 3], want: [f64; 3]) -> bool {
    let [aa, bb, _] = want;
    let scales = [aa, bb, (aa * bb).sqrt()];
    let near = |((got, want), scale): ((f64, f64), f64)| (got - want).abs() <= TOLERANCE * scale;
    got.into_iter().zip(want).zip(scales).all(near)
}
