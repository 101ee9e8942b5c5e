//! Unpacks 16-byte loads into f32. Twin of decode_fp8.wgsl.

use super::weights::Weights;

/// `values[i]` = value of code i, for `loads` loads. `(loads * per_load)`
pub fn decode_fp8(loads: u32, codes: Weights, values: &mut [f32]) {
    values.copy_from_slice(&codes.row(0, loads));
}
