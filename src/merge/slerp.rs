//! The arithmetic of a merge on the CPU, over chunks of f32.
//!
//! SLERP takes two passes: [`Sums`] over both tensors, then [`combine`] with the two
//! [`coefficients`] that follow from them. Neither shows how the tensors were cut into chunks.

use super::bulk::{AddRows, LANES, Lanes, add_rows, add_rows_bf16, blend_rows, blend_rows_bf16};
use crate::dtype::{bf16_to_f32, f32_to_bf16};

/// Beyond this cosine the angle is too small to divide by its sine: the blend is linear.
const LINEAR_ABOVE: f64 = 0.9995;
/// A vector no longer than this is not normalised.
const SHORTEST: f64 = 1e-8;

/// Sums of a·a, b·b and a·b in f64, where each product of two f32 is exact. Element `i` is added
/// to lane `i % 8` in order, so that the result does not depend on the chunks.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    lanes: Lanes,
    /// Lane of the next element.
    phase: usize,
}

impl Sums {
    /// Adds the next elements of both tensors; what one slice has more than the other is left out.
    pub fn add(&mut self, a: &[f32], b: &[f32]) {
        self.add_all(a, b, |value| value, add_rows);
    }

    /// [`Self::add`] of stored BF16 elements.
    pub fn add_bf16(&mut self, a: &[[u8; 2]], b: &[[u8; 2]]) {
        self.add_all(a, b, bf16_to_f32, add_rows_bf16);
    }

    fn add_all<T: Copy>(&mut self, a: &[T], b: &[T], value: impl Fn(T) -> f32 + Copy, add: AddRows<T>) {
        let length = a.len().min(b.len());
        // Up to a whole row of lanes first, so that the bulk is aligned with them.
        let head = ((LANES - self.phase) % LANES).min(length);
        let ((a_head, a), (b_head, b)) = (a.split_at(head), b.split_at(head));
        self.add_ragged(a_head, b_head, value);
        let ((a_rows, a_tail), (b_rows, b_tail)) = (a.as_chunks(), b.as_chunks());
        add(&mut self.lanes, a_rows, b_rows);
        self.add_ragged(a_tail, b_tail, value);
    }

    fn add_ragged<T: Copy>(&mut self, a: &[T], b: &[T], value: impl Fn(T) -> f32) {
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (f64::from(value(*a)), f64::from(value(*b)));
            for (lanes, product) in self.lanes.iter_mut().zip([a * a, b * b, a * b]) {
                if let Some(lane) = lanes.get_mut(self.phase) {
                    *lane += product;
                }
            }
            self.phase = (self.phase + 1) % LANES;
        }
    }

    /// Sums of a·a, b·b and a·b.
    pub fn totals(&self) -> [f64; 3] {
        self.lanes.map(|lanes| lanes.iter().sum())
    }
}

/// Which formula a SLERP took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Branch {
    /// The tensors are nearly parallel, or opposite: `(1 - t) a + t b`.
    Linear,
    /// `sin((1 - t) θ) / sin(θ) a + sin(t θ) / sin(θ) b`.
    Spherical,
}

/// What two tensors' sums make of `t`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// Cosine of the angle between them, in [-1, 1].
    pub dot: f64,
    /// Euclidean norms.
    pub norms: [f64; 2],
    /// The formula.
    pub branch: Branch,
    /// Factors of both.
    pub factors: [f64; 2],
}

/// The factors of a SLERP, from the sums of a·a, b·b and a·b. `t` = 0 gives a.
pub fn coefficients([aa, bb, ab]: [f64; 3], t: f64) -> Coefficients {
    let norms = [aa.sqrt(), bb.sqrt()];
    let divisor = norms.map(|norm| if norm > SHORTEST { norm } else { 1.0 });
    let dot = (ab / divisor.iter().product::<f64>()).clamp(-1.0, 1.0);
    if dot.abs() > LINEAR_ABOVE {
        return Coefficients { dot, norms, branch: Branch::Linear, factors: [1.0 - t, t] };
    }
    // The same functions natively and in wasm: the standard library's are the platform's.
    let angle = libm::acos(dot);
    let sine = libm::sin(angle);
    let factors = [libm::sin((1.0 - t) * angle) / sine, libm::sin(t * angle) / sine];
    Coefficients { dot, norms, branch: Branch::Spherical, factors }
}

impl Coefficients {
    /// Distance of the (unrounded) result from both tensors: `|r - a|` and `|r - b|`.
    pub fn distances(&self, [aa, bb, ab]: [f64; 3]) -> [f64; 2] {
        let [c0, c1] = self.factors;
        // Cancellation may leave a tiny negative square.
        let norm = |x: f64, y: f64| (x * x * aa + y * y * bb + 2.0 * x * y * ab).max(0.0).sqrt();
        [norm(c0 - 1.0, c1), norm(c0, c1 - 1.0)]
    }
}

/// `out = Σ factor * values` over all terms, in f32: every product rounded, then added from the
/// left. All slices are as long as the first; `out` is replaced.
pub fn combine(terms: &[(f32, &[f32])], out: &mut Vec<f32>) {
    out.clear();
    match *terms {
        [] => {}
        [(factor, values)] => out.extend(values.iter().map(|v| factor * v)),
        [(c0, a), (c1, b), ref rest @ ..] => {
            out.resize(a.len().min(b.len()), 0.0);
            let ((a_rows, a_tail), (b_rows, b_tail)) = (a.as_chunks(), b.as_chunks());
            let (rows, tail) = out.as_chunks_mut();
            blend_rows([c0, c1], a_rows, b_rows, rows);
            for ((out, a), b) in tail.iter_mut().zip(a_tail).zip(b_tail) {
                *out = c0 * a + c1 * b;
            }
            for (factor, values) in rest {
                out.iter_mut().zip(*values).for_each(|(sum, v)| *sum += factor * v);
            }
        }
    }
}

/// [`combine`] of two tensors of BF16 into one of BF16: `c0 * a + c1 * b`, rounded, for as many elements as all
/// slices have.
pub fn blend_bf16([c0, c1]: [f32; 2], a: &[[u8; 2]], b: &[[u8; 2]], out: &mut [[u8; 2]]) {
    let length = a.len().min(b.len()).min(out.len());
    let ((a, _), (b, _), (out, _)) = (a.split_at(length), b.split_at(length), out.split_at_mut(length));
    let ((a, a_tail), (b, b_tail), (out, out_tail)) = (a.as_chunks(), b.as_chunks(), out.as_chunks_mut());
    blend_rows_bf16([c0, c1], a, b, out);
    for ((out, a), b) in out_tail.iter_mut().zip(a_tail).zip(b_tail) {
        *out = f32_to_bf16(c0 * bf16_to_f32(*a) + c1 * bf16_to_f32(*b));
    }
}
