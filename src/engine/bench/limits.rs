//! What an adapter can do at most, as figures, and what that leaves a prompt and a token.

use super::{Figures, Unit};
use crate::kernels::probe::{Kind, Limits, Probe};
use crate::steps::{DecoderShape, MatrixSpec};

/// What the adapter can do at most, and each kernel that was tried.
pub(super) fn of_limits(limits: &Limits) -> Figures {
    let mut figures = Figures::default();
    let stream = limits.best(Kind::Stream);
    for (index, probe) in limits.probes.iter().enumerate() {
        let (kind, what, unit) = match probe.kind {
            Kind::Stream => ("limit", "streaming read", Unit::Times(1e-9, "GB/s")),
            Kind::Matvec(_) => ("limit", "matrix-vector", Unit::Times(1e-9, "GB/s")),
            Kind::Matmul(_) => ("limit", "matrix-matrix", Unit::Times(1e-9, "GFLOP/s")),
            Kind::Product => ("limit", "plain product F32", Unit::Times(1e-9, "GFLOP/s")),
            Kind::Dispatch => ("limit", "dispatches", Unit::Times(1e-3, "per ms")),
            Kind::Reduce => ("merge", "reduce", Unit::Times(1e-9, "GB/s")),
            Kind::Blend => ("merge", "blend", Unit::Times(1e-9, "GB/s")),
        };
        let dtype = match probe.kind {
            Kind::Matvec(dtype) | Kind::Matmul(dtype) => Some(dtype),
            _ => None,
        };
        let mut name = what.to_owned();
        if let Some(dtype) = dtype {
            name = format!("{what} {dtype}");
            let kernel = format!("{what} {} {}", probe.shape, probe.variant);
            figures.add(("kernel", &kernel, 0), unit, &probe.samples, limits.best(probe.kind) * 1e-9);
        }
        // The best of a kind stands for it; of equals the first.
        let of_kind = limits.probes.iter().enumerate().filter(|(_, other)| other.kind == probe.kind);
        let better = |(at, other): (usize, &Probe)| {
            other.rate() > probe.rate() || (other.rate() == probe.rate() && at < index)
        };
        if !of_kind.into_iter().any(better) {
            let limit = if kind == "merge" { stream * 1e-9 } else { 0.0 };
            figures.add((kind, &name, 0), unit, &probe.samples, limit);
        }
    }
    figures.add(("limit", "writes to the device", 0), Unit::Times(1e-6, "MB/s"), &limits.writes, 0.0);
    figures.add(("limit", "submit and read back", 0), Unit::Times(1.0, "ms"), &limits.readbacks, 0.0);
    figures
}

fn size(spec: &MatrixSpec) -> f64 {
    f64::from(spec.rows) * f64::from(spec.cols)
}

/// Milliseconds in which every weight is read once at the best matrix-vector rate of its type, over all kernels and
/// shapes, and the keys and values, two bytes each, at the streaming rate.
pub(super) fn decode_limit_ms(
    context: u32,
    shape: &DecoderShape,
    matrices: &[MatrixSpec],
    limits: &Limits,
) -> f64 {
    let positions = f64::from(context.min(shape.cache_slots()));
    let cache_bytes = positions * f64::from(shape.kv_width()) * 4.0 * f64::from(shape.layers);
    let matvec = |spec: &MatrixSpec| {
        size(spec) * spec.dtype.size_bytes() as f64 / limits.best(Kind::Matvec(spec.dtype))
    };
    (cache_bytes / limits.best(Kind::Stream) + matrices.iter().map(matvec).sum::<f64>()) * 1e3
}

/// Milliseconds in which every matrix is multiplied with so many tokens at the best rate of its type or of a plain
/// f32 product, whichever is more, or read once where that takes longer, and the head with the last of them.
pub(super) fn prompt_limit_ms(tokens: u32, matrices: &[MatrixSpec], limits: &Limits) -> f64 {
    let Some((head, layers)) = matrices.split_last() else { return 0.0 };
    let bytes = |spec: &MatrixSpec| size(spec) * spec.dtype.size_bytes() as f64;
    let matmul = |spec: &MatrixSpec| {
        let best = limits.best(Kind::Matmul(spec.dtype)).max(limits.best(Kind::Product));
        let work = 2.0 * size(spec) * f64::from(tokens) / best;
        work.max(bytes(spec) / limits.best(Kind::Stream))
    };
    let head = bytes(head) / limits.best(Kind::Matvec(head.dtype));
    (head + layers.iter().map(matmul).sum::<f64>()) * 1e3
}
