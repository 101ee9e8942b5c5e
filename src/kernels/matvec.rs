//! `y = x W^T` for few tokens. See matvec.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::MatrixSpec;

use super::sizes::Threads;
use super::weights::Decoder;
use super::{BATCH_WGSL, BatchUniform, Grid, fold, linear, weights};

/// Rows of W that a group of lanes computes together.
const ROWS: u32 = 4;

const PLAIN: &str = wgsl!("shared/input_plain.wgsl");

/// What a product behind a norm takes in.
pub(super) const SCALED: &str = wgsl!("shared/input_scaled.wgsl");

const NOTHING_ELSE: &str = wgsl!("shared/output_plain.wgsl");

/// Group 0 of the kernel behind a norm, in order.
pub const SCALED_BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<linear::Params>()),
    Binding::read("x"),
    Binding::read("weights"),
    Binding::read("scales"),
    Binding::write("y"),
    Binding::read("squares"),
];

/// Group 0 of the kernel in front of a norm, in order.
pub const GAINING_BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<linear::Params>()),
    Binding::read("x"),
    Binding::read("weights"),
    Binding::read("scales"),
    Binding::write("y"),
    Binding::read("gain"),
    Binding::write("gained"),
    Binding::write("squares"),
];

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, threads: Threads) -> Option<Kernel> {
    compose(spec, decoder, threads, [PLAIN, NOTHING_ELSE], linear::BINDINGS)
}

/// The kernel behind a norm: x has its gain, and squares of what x was are beside it.
pub fn scaled(spec: &MatrixSpec, decoder: Decoder, threads: Threads, epsilon: f32) -> Option<Kernel> {
    let mut kernel = compose(spec, decoder, threads, [SCALED, NOTHING_ELSE], SCALED_BINDINGS)?;
    kernel.constants.extend(scaled_constants(spec, threads, epsilon));
    Some(kernel)
}

/// The kernel in front of a norm: it leaves y with the norm's gain, and squares of y.
pub fn gaining(spec: &MatrixSpec, decoder: Decoder, threads: Threads) -> Option<Kernel> {
    let output = wgsl!("shared/output_gained.wgsl");
    compose(spec, decoder, threads, [PLAIN, output], GAINING_BINDINGS)
}

/// Override constants behind a norm over the columns of W.
pub(super) fn scaled_constants(
    spec: &MatrixSpec,
    threads: Threads,
    epsilon: f32,
) -> [(&'static str, f64); 3] {
    let shares = f64::from(threads.partials(spec));
    [("WIDTH", f64::from(spec.cols)), ("EPSILON", f64::from(epsilon)), ("SHARES", shares)]
}

fn compose(
    spec: &MatrixSpec,
    decoder: Decoder,
    threads: Threads,
    [input, output]: [&'static str; 2],
    bindings: &'static [Binding],
) -> Option<Kernel> {
    let weights = weights::wgsl(spec.dtype, decoder)?;
    let parts =
        vec![BATCH_WGSL, weights, linear::WGSL, input, output, threads.reduce(), wgsl!("matvec.wgsl")];
    Some(Kernel { name: "matvec", parts, constants: threads.constants(spec), bindings })
}

/// Workgroups for `rows` rows of W and `tokens` tokens.
pub fn grid(spec: &MatrixSpec, rows: u32, tokens: u32, threads: Threads) -> Grid {
    let (x, z) = fold(rows.div_ceil(ROWS * threads.groups(spec)));
    [x, tokens, z]
}
