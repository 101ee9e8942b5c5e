//! `y = x W^T` for few tokens. See matvec.wgsl.

use crate::gpu::{Binding, Kernel};
use crate::steps::MatrixSpec;

use super::sizes::Threads;
use super::weights::Decoder;
use super::{BATCH_WGSL, BatchUniform, Grid, fold, linear, weights};

/// Rows of W that a group of lanes computes together, without a norm.
const ROWS: u32 = 4;

/// Group 0 of the kernel with a norm, in order.
pub const NORMED_BINDINGS: &[Binding] = &[
    Binding::uniform("batch", size_of::<BatchUniform>()),
    Binding::uniform("params", size_of::<linear::Params>()),
    Binding::read("x"),
    Binding::read("weights"),
    Binding::read("scales"),
    Binding::write("y"),
    Binding::read("gain"),
];

/// The kernel for one matrix; `None` for a dtype that shaders do not read.
pub fn kernel(spec: &MatrixSpec, decoder: Decoder, threads: Threads) -> Option<Kernel> {
    compose(spec, decoder, threads, include_str!("shared/input_plain.wgsl"), linear::BINDINGS)
}

/// The kernel with a norm of x in front of the product; `params.single` is then the batch's last row.
pub fn normed(spec: &MatrixSpec, decoder: Decoder, threads: Threads, epsilon: f32) -> Option<Kernel> {
    let input = include_str!("shared/input_normed.wgsl");
    let mut kernel = compose(spec, decoder, threads, input, NORMED_BINDINGS)?;
    kernel.constants.extend(norm_constants(spec, epsilon));
    if threads.normed_rows() > ROWS {
        kernel.constants.extend(
            [("ROWS", threads.normed_rows()), ("UPPER", threads.workgroup)]
                .map(|(name, value)| (name, f64::from(value))),
        );
    }
    Some(kernel)
}

/// Override constants of a norm over the columns of W.
pub(super) fn norm_constants(spec: &MatrixSpec, epsilon: f32) -> [(&'static str, f64); 2] {
    [("WIDTH", f64::from(spec.cols)), ("EPSILON", f64::from(epsilon))]
}

fn compose(
    spec: &MatrixSpec,
    decoder: Decoder,
    threads: Threads,
    input: &'static str,
    bindings: &'static [Binding],
) -> Option<Kernel> {
    let weights = weights::wgsl(spec.dtype, decoder)?;
    let parts = vec![BATCH_WGSL, weights, linear::WGSL, input, include_str!("matvec.wgsl")];
    Some(Kernel { name: "matvec", parts, constants: threads.constants(spec), bindings })
}

/// Workgroups for `rows` rows of W and `tokens` tokens, with or without a norm in front.
pub fn grid(spec: &MatrixSpec, rows: u32, tokens: u32, threads: Threads, norm: bool) -> Grid {
    let of_group = if norm { threads.normed_rows() } else { ROWS };
    let (x, z) = fold(rows.div_ceil(of_group * threads.groups(spec)));
    [x, tokens, z]
}
