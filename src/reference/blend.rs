//! `merged = c0 * a + c1 * b`, packed. Twin of blend.wgsl.

use half::{bf16, f16};

use crate::dtype::Dtype;
use crate::kernels::blend::{GROUP, Params};

use super::weights::Weights;

/// Fills the groups of `merged` and adds to their part's counter the elements that are not finite.
///
/// `a (8 * groups)`, `b (8 * groups)`, `merged (8 * groups)` elements of `out`, `non_finite (parts)`.
pub fn blend(params: &Params, a: Weights, b: Weights, out: Dtype, merged: &mut [u8], non_finite: &mut [u32]) {
    let elements = (params.groups * GROUP) as usize;
    let (a, b) =
        (a.row(0, params.groups * GROUP / a.per_load()), b.row(0, params.groups * GROUP / b.per_load()));
    let size = out.size_bytes() as usize;
    for at in 0..elements {
        let product = params.c0 * a[at];
        let sum = product + params.c1 * b[at];
        let code = &mut merged[at * size..][..size];
        let finite = match out {
            Dtype::Bf16 => {
                code.copy_from_slice(&bf16::from_f32(sum).to_le_bytes());
                bf16::from_f32(sum).is_finite()
            }
            Dtype::F16 => {
                code.copy_from_slice(&f16::from_f32(sum).to_le_bytes());
                f16::from_f32(sum).is_finite()
            }
            _ => {
                code.copy_from_slice(&sum.to_le_bytes());
                sum.is_finite()
            }
        };
        non_finite[params.part as usize] += u32::from(!finite);
    }
}
