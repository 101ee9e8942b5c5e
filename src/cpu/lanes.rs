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

    #[inline(always)]
    pub(in crate::cpu) fn div(a: Lanes, b: Lanes) -> Lanes {
        let ([a, b, c, d], [e, f, g, h]) = (a, b);
        [a / e, b / f, c / g, d / h]
    }

    #[inline(always)]
    pub(in crate::cpu) fn max(a: Lanes, b: Lanes) -> Lanes {
        let ([a, b, c, d], [e, f, g, h]) = (a, b);
        [a.max(e), b.max(f), c.max(g), d.max(h)]
    }

    #[inline(always)]
    pub(in crate::cpu) fn min(a: Lanes, b: Lanes) -> Lanes {
        let ([a, b, c, d], [e, f, g, h]) = (a, b);
        [a.min(e), b.min(f), c.min(g), d.min(h)]
    }

    /// `value` in lanes where `x` is above `floor`, else 0.
    #[inline(always)]
    pub(in crate::cpu) fn where_above(floor: f32, x: Lanes, value: Lanes) -> Lanes {
        let keep = |x: f32, value: f32| if x > floor { value } else { 0.0 };
        let ([a, b, c, d], [e, f, g, h]) = (x, value);
        [keep(a, e), keep(b, f), keep(c, g), keep(d, h)]
    }

    /// 2^n from n + 1.5 * 2^23.
    #[inline(always)]
    pub(in crate::cpu) fn power_of_two(shifted: Lanes) -> Lanes {
        shifted.map(|n| f32::from_bits((n.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }

    /// Each of 16 bytes moved into the top of a lane, then `SHIFT` to the right with its sign, then masked.
    #[inline(always)]
    pub(in crate::cpu) fn widen_bytes<const SHIFT: u32, const MASK: u32>(bytes: &[u8; 16]) -> [Lanes; 4] {
        let widen = |byte: u8| f32::from_bits(((u32::from(byte) << 24) as i32 >> SHIFT) as u32 & MASK);
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes.map(widen);
        [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]]
    }

    /// The same, every fourth byte together.
    #[inline(always)]
    pub(in crate::cpu) fn widen_bytes_apart<const SHIFT: u32, const MASK: u32>(
        bytes: &[u8; 16],
    ) -> [Lanes; 4] {
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = widen_bytes::<SHIFT, MASK>(bytes);
        [[a, e, i, m], [b, f, j, n], [c, g, k, o], [d, h, l, p]]
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

    /// The same, every other one together.
    #[inline(always)]
    pub(in crate::cpu) fn widen_halves_apart<const SHIFT: u32, const MASK: u32>(
        bytes: &[u8; 16],
    ) -> [Lanes; 2] {
        let [[a, b, c, d], [e, f, g, h]] = widen_halves::<SHIFT, MASK>(bytes);
        [[a, c, e, g], [b, d, f, h]]
    }

    /// Four i32.
    pub(in crate::cpu) type Ints = [i32; 4];

    #[inline(always)]
    pub(in crate::cpu) fn no_ints() -> Ints {
        [0; 4]
    }

    #[inline(always)]
    pub(in crate::cpu) fn to_lanes(ints: Ints) -> Lanes {
        ints.map(|i| i as f32)
    }

    /// 16 bytes with their signs.
    #[inline(always)]
    pub(in crate::cpu) fn widen_ints(bytes: &[u8; 16]) -> [Ints; 4] {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes.map(|byte| i32::from(byte as i8));
        [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]]
    }

    /// Adds the products of 16 bytes, with their signs, and 16 others.
    #[inline(always)]
    pub(in crate::cpu) fn add_products(sum: Ints, bytes: &[u8; 16], others: &[i16; 16]) -> Ints {
        let [mut a, mut b, mut c, mut d] = sum;
        let products =
            bytes.iter().zip(others).map(|(byte, other)| i32::from(*byte as i8) * i32::from(*other));
        for (at, product) in products.enumerate() {
            // In pairs, as the other has it; the order does not matter.
            match at / 2 % 4 {
                0 => a += product,
                1 => b += product,
                2 => c += product,
                _ => d += product,
            }
        }
        [a, b, c, d]
    }

    /// The sum of each, in a lane of its own.
    #[inline(always)]
    pub(in crate::cpu) fn sums_by_lane(each: [Ints; 4]) -> Ints {
        each.map(|ints| ints.iter().sum())
    }

    /// The nearest whole numbers, ties to even; all are within 16 bits.
    #[inline(always)]
    pub(in crate::cpu) fn round_to_shorts(lanes: [Lanes; 4]) -> [i16; 16] {
        let mut shorts = [0; 16];
        let rounded = lanes.iter().flatten().map(|x| x.round_ties_even() as i16);
        shorts.iter_mut().zip(rounded).for_each(|(short, x)| *short = x);
        shorts
    }

    #[inline(always)]
    pub(in crate::cpu) fn abs(lanes: Lanes) -> Lanes {
        lanes.map(f32::abs)
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

/// e^x to within two units in the last place; 0 up to -87, and beyond 87 as there. The polynomial is
/// that of Cephes' `expf`.
pub(super) fn exp(x: Lanes) -> Lanes {
    const LOWEST: f32 = -87.0;
    let within = min(max(x, splat(LOWEST)), splat(-LOWEST));
    // Adding this lets the addition round to a whole number.
    let whole = splat(1.5 * (1 << 23) as f32);
    let shifted = mul_add(whole, within, splat(std::f32::consts::LOG2_E));
    let n = add(shifted, mul(whole, splat(-1.0)));
    // ln 2 in two parts, the first of which has few bits.
    let r = mul_add(mul_add(within, n, splat(-0.693_359_4)), n, splat(2.121_944_4e-4));
    let mut series = splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        series = mul_add(splat(coefficient), series, r);
    }
    let value = mul_add(add(r, splat(1.0)), series, mul(r, r));
    where_above(LOWEST, x, mul(value, power_of_two(shifted)))
}

/// The largest of all four lanes.
#[inline(always)]
pub(super) fn largest(lanes: Lanes) -> f32 {
    let [a, b, c, d] = store(lanes);
    a.max(b).max(c.max(d))
}

/// All four lanes together.
#[inline(always)]
pub(super) fn total(lanes: Lanes) -> f32 {
    let [a, b, c, d] = store(lanes);
    (a + b) + (c + d)
}
