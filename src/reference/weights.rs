//! Weights as they lie in a buffer: rows of 16-byte loads.

use crate::dtype::{Dtype, DtypeError, widen};

/// Packed weights, each row padded with zeros to whole 16-byte loads.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    dtype: Dtype,
    bytes: &'a [u8],
}

impl<'a> Weights<'a> {
    /// Weights of `dtype`.
    ///
    /// # Errors
    /// A dtype that holds neither floats nor 8-bit integers.
    pub fn new(dtype: Dtype, bytes: &'a [u8]) -> Result<Weights<'a>, DtypeError> {
        if dtype.is_float() || dtype == Dtype::I8 {
            Ok(Weights { dtype, bytes })
        } else {
            Err(DtypeError::NotFloat(dtype))
        }
    }

    /// Elements of a 16-byte load.
    pub fn per_load(&self) -> u32 {
        16 / self.dtype.size_bytes() as u32
    }

    /// The values of one row of `loads` loads. `(loads * per_load)`
    pub fn row(&self, row: u32, loads: u32) -> Vec<f32> {
        let row_bytes = loads as usize * 16;
        let bytes = &self.bytes[row as usize * row_bytes..][..row_bytes];
        if self.dtype == Dtype::I8 {
            return bytes.iter().map(|byte| f32::from(*byte as i8)).collect();
        }
        let mut values = Vec::new();
        // `new` has refused what `widen` refuses.
        let _ = widen(self.dtype, bytes, &mut values);
        values
    }
}
