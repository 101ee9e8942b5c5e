//! How large the operands of a weighted sum are, and how far the sum lies from each: what a SLERP's
//! report has from the sums that it needs anyway.

use super::{Evaluation, Sums};
use crate::checkpoint::ByteSource;
use crate::merge::tensor::{Operation, TensorPlan};

/// What was measured of a weighted sum, in the order of its operands.
#[derive(Clone, Debug)]
pub(in crate::merge) struct Measured {
    pub(in crate::merge) node: usize,
    /// Euclidean norms.
    pub(in crate::merge) norms: Vec<f64>,
    /// Distances from the (unrounded) sum.
    pub(in crate::merge) distances: Vec<f64>,
}

/// Sums in the making: for every node and operand, over (operand, sum - operand).
#[derive(Default)]
pub(super) struct Measures(Vec<Vec<Sums>>);

impl Measures {
    /// Begins with nothing, for the pass in which every node is computed once.
    pub(super) fn begin(plan: &TensorPlan) -> Measures {
        let sums = plan.nodes.iter().map(|node| match (&node.operation, &node.origin) {
            (Operation::Linear(_), Some(_)) => vec![Sums::default(); node.operands.len()],
            _ => Vec::new(),
        });
        Measures(sums.collect())
    }

    /// Adds a chunk of one operand of a node, and of the (unrounded) sum's difference from it.
    pub(super) fn add(&mut self, node: usize, operand: usize, values: &[f32], difference: &[f32]) {
        if let Some(sums) = self.0.get_mut(node).and_then(|node| node.get_mut(operand)) {
            sums.add(values, difference);
        }
    }
}

impl<S: ByteSource + Clone> Evaluation<S> {
    /// Measures a chunk of a weighted sum before it is rounded.
    pub(super) fn measure(&mut self, index: usize, result: &[f32]) {
        let mut measures = std::mem::take(&mut self.measures);
        let mut difference = Vec::new();
        for (i, operand) in self.operands(index).into_iter().enumerate() {
            difference.clear();
            difference.extend(result.iter().zip(operand).map(|(r, v)| r - v));
            measures.add(index, i, operand, &difference);
        }
        self.measures = measures;
    }

    /// What was measured so far: all there is once the last element was computed.
    pub(in crate::merge) fn measured(&self) -> Vec<Measured> {
        let nodes = self.measures.0.iter().enumerate().filter(|(_, sums)| !sums.is_empty());
        let measured = nodes.map(|(node, sums)| {
            let squares = sums.iter().map(|sums| sums.totals().map(f64::sqrt));
            let (norms, distances) = squares.map(|[norm, distance, _]| (norm, distance)).unzip();
            Measured { node, norms, distances }
        });
        measured.collect()
    }
}
