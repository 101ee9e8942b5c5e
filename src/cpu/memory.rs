//! What a model takes of the memory that WebAssembly has, found out before any of it arrives.

use super::{Cpu, CpuError, TOKENS, filled_up, layout, pitch};
use crate::steps::{DecoderShape, MatrixSpec, Slot};

/// Bytes beside the model: what streams, what a pass works on, what was there before.
const RESERVE_BYTES: u64 = 32 << 20;

/// Memory is asked for in pieces of this many bytes: one allocation holds less than a model may take.
const PIECE_BYTES: u64 = 16 << 20;

/// Bytes that this program can have in all, where that is limited: 32-bit addresses.
const LIMIT_BYTES: Option<u64> = if cfg!(target_arch = "wasm32") { Some(1 << 32) } else { None };

impl Cpu {
    /// Bytes of a matrix and its scales.
    pub fn matrix_bytes(spec: &MatrixSpec) -> u64 {
        let scales = if spec.scale_cols == 0 { 0 } else { spec.cols.div_ceil(spec.scale_cols) };
        let [rows, cols] = filled_up(spec);
        rows.saturating_mul(cols * spec.dtype.size_bytes() + u64::from(scales) * 4)
    }

    /// Bytes for key/value cache and for activations, for a model of this shape.
    pub fn memory(shape: &DecoderShape) -> [u64; 2] {
        // The MLP has two: its gate and what it gates.
        let slots = [
            Slot::X,
            Slot::Normed,
            Slot::Qkv,
            Slot::AttnOut,
            Slot::Mlp,
            Slot::Mlp,
            Slot::LastNormed,
            Slot::Logits,
        ];
        let bytes = |slot| {
            let rows = shape.rows(slot, shape.max_batch).next_multiple_of(TOKENS as u32);
            u64::from(pitch(shape, slot)) * u64::from(rows) * 4
        };
        let caches = layout(shape).bytes().iter().sum::<u64>().saturating_mul(u64::from(shape.layers));
        [caches, slots.into_iter().map(bytes).sum()]
    }

    /// Whether weights, key/value cache and activations of these sizes could fit at all.
    ///
    /// # Errors
    /// [`CpuError::TooLarge`].
    pub fn check(bytes: [u64; 3]) -> Result<(), CpuError> {
        LIMIT_BYTES.map_or(Ok(()), |limit| check_within(bytes, limit - RESERVE_BYTES))
    }

    /// Makes sure of the memory for a model, and for what works beside it (what reads the weights takes `beside` bytes
    /// more than a transfer does), while there is nothing yet
    /// that its want could end: it never shrinks again, so later allocations find it. Browsers may give less than
    /// WebAssembly allows, and say so only by refusing it.
    ///
    /// # Errors
    /// [`CpuError::TooLarge`], with what there was.
    pub fn reserve(bytes: [u64; 3], beside: u64) -> Result<(), CpuError> {
        let Some(limit) = LIMIT_BYTES else { return Ok(()) };
        let beside = beside.saturating_add(RESERVE_BYTES);
        check_within(bytes, limit.saturating_sub(beside))?;
        match available(bytes.iter().sum::<u64>() + beside) {
            Some(available) => check_within(bytes, available.saturating_sub(beside)),
            None => Ok(()),
        }
    }

    /// [`Cpu::reserve`] for what works beside a model that is there: what reads other weights for it.
    ///
    /// # Errors
    /// [`CpuError::OutOfMemory`].
    pub fn reserve_beside(beside: u64) -> Result<(), CpuError> {
        let bytes = beside.saturating_add(RESERVE_BYTES);
        let refused = LIMIT_BYTES.is_some() && available(bytes).is_some();
        if refused {
            return Err(CpuError::OutOfMemory { label: "what reads the weights".into(), bytes });
        }
        Ok(())
    }
}

/// Takes that much memory, and gives it back; where there is less, how much there is.
fn available(wanted: u64) -> Option<u64> {
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    for piece in 0..wanted.div_ceil(PIECE_BYTES) {
        let mut held = Vec::new();
        if held.try_reserve_exact(PIECE_BYTES as usize).is_err() {
            return Some(piece * PIECE_BYTES);
        }
        pieces.push(held);
    }
    // Otherwise a compiler may find that nobody uses them.
    std::hint::black_box(&pieces);
    None
}

/// Refuses what sums to more than `limit` bytes.
fn check_within([weights, kv_cache, activations]: [u64; 3], limit: u64) -> Result<(), CpuError> {
    let needed = weights.saturating_add(kv_cache).saturating_add(activations);
    if needed <= limit {
        return Ok(());
    }
    Err(CpuError::TooLarge { needed, weights, kv_cache, activations, limit })
}

#[cfg(test)]
mod tests {
    use super::check_within;

    #[test]
    fn what_does_not_fit_is_told_in_numbers() {
        assert_eq!(check_within([70, 20, 10], 100), Ok(()));
        let error = check_within([70, 20, 11], 100).map_err(|error| error.to_string());
        let said = "this model takes 101 bytes of memory on the processor (70 for weights, 20 for the key/value cache, \
                    11 for activations), and there are 100; ";
        assert!(error.as_ref().is_err_and(|text| text.starts_with(said)), "{error:?}");
        assert!(check_within([u64::MAX, 1, 1], u64::MAX - 1).is_err());
    }
}
