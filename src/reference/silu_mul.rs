//! `Mlp = silu(Mlp) * up`. Twin of silu_mul.wgsl.

use crate::kernels::silu_mul::Params;

/// `x / (1 + exp(-x))`
pub(super) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// In place over all columns, padding included. `up (T, 4 * pitch)`, `mlp (T, 4 * pitch)`.
pub fn silu_mul(tokens: u32, params: &Params, up: &[f32], mlp: &mut [f32]) {
    for at in 0..(tokens * params.pitch * 4) as usize {
        mlp[at] = (silu(f64::from(mlp[at])) * f64::from(up[at])) as f32;
    }
}
