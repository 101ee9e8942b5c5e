//! Four f32 side by side: portable here, in WebAssembly's SIMD in `lanes/wasm.rs`.

#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
pub(super) use wasm::*;

#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
mod portable {
    /// Four f32.
    pub(in crate::cpu) type Lanes = [f32; 4];

    #[inline(always)]
    pub(in crate::cpu) fn splat(value: f32) -> Lanes {
        [value; 4]
    }

    #[inline(always)]
    pub(in crate::cpu) fn load(values: &[f32; 4]) -> Lanes {
        *values
    }

    #[inline(always)]
    pub(in crate::cpu) fn store(lanes: Lanes) -> [f32; 4] {
        lanes
    }

    #[inline(always)]
    pub(in crate::cpu) fn add(a: Lanes, b: Lanes) -> Lanes {
        let ([a, b, c, d], [e, f, g, h]) = (a, b);
        [a + e, b + f, c + g, d + h]
    }

    #[inline(always)]
    pub(in crate::cpu) fn mul(a: Lanes, b: Lanes) -> Lanes {
        let ([a, b, c, d], [e, f, g, h]) = (a, b);
        [a * e, b * f, c * g, d * h]
    }

    /// Each of 16 bytes moved into the top of a lane, then `SHIFT` to the right with its sign, then masked.
    #[inline(always)]
    pub(in crate::cpu) fn widen_bytes<const SHIFT: u32, const MASK: u32>(bytes: &[u8; 16]) -> [Lanes; 4] {
        let widen = |byte: u8| f32::from_bits(((u32::from(byte) << 24) as i32 >> SHIFT) as u32 & MASK);
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes.map(widen);
        [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]]
    }

    /// The same of eight 16-bit elements.
    #[inline(always)]
    pub(in crate::cpu) fn widen_halves<const SHIFT: u32, const MASK: u32>(bytes: &[u8; 16]) -> [Lanes; 2] {
        let widen =
            |low, high| f32::from_bits((u32::from_le_bytes([0, 0, low, high]) as i32 >> SHIFT) as u32 & MASK);
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
        [
            [widen(a, b), widen(c, d), widen(e, f), widen(g, h)],
            [widen(i, j), widen(k, l), widen(m, n), widen(o, p)],
        ]
    }

    /// Four stored f32.
    #[inline(always)]
    pub(in crate::cpu) fn from_bytes(bytes: &[u8; 16]) -> Lanes {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
        [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(f32::from_le_bytes)
    }
}
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
pub(super) use portable::*;

/// `sum + a * b`
#[inline(always)]
pub(super) fn mul_add(sum: Lanes, a: Lanes, b: Lanes) -> Lanes {
    add(sum, mul(a, b))
}

/// All four lanes together.
#[inline(always)]
pub(super) fn total(lanes: Lanes) -> f32 {
    let [a, b, c, d] = store(lanes);
    (a + b) + (c + d)
}
