//! Nodes that are computed in f64, as mergekit computes what is float64: slower, and hardly ever met.

use super::Evaluation;
use crate::checkpoint::{ByteSource, CheckpointError};
use crate::dtype::{Dtype, round_through};
use crate::merge::tensor::{Node, Operation};

/// Chunks in f64 beside those in f32, by node.
#[derive(Default)]
pub(super) struct Wide {
    /// Of the nodes whose values f32 does not hold.
    values: Vec<Vec<f64>>,
    /// Those of a node's operands that are in f32.
    casts: Vec<Vec<f64>>,
}

/// Whether a node's arithmetic is in f64.
pub(super) fn computes(node: &Node) -> bool {
    let precision = match node.operation {
        Operation::Leaf(_) => Some(&node.dtype),
        _ => node.rounds.first(),
    };
    precision == Some(&Dtype::F64)
}

impl<S: ByteSource + Clone> Evaluation<S> {
    /// A node's current chunk, where f32 does not hold it.
    pub(super) fn wide_values(&self, node: usize) -> Option<&[f64]> {
        let wide = |node: &&Node| computes(node) && node.dtype == Dtype::F64;
        self.plan.nodes.get(node).filter(wide)?;
        self.wide.values.get(node).map(Vec::as_slice)
    }

    /// Computes the next `count` elements of a node in f64; what f32 holds of them goes to `out`.
    pub(super) async fn compute_wide(
        &mut self,
        index: usize,
        count: usize,
        out: &mut Vec<f32>,
    ) -> Result<(), CheckpointError> {
        let plan = self.plan.clone();
        let Some(node) = plan.nodes.get(index) else { return Ok(()) };
        self.wide.values.resize(plan.nodes.len(), Vec::new());
        let mut values = self.wide.values.get_mut(index).map(std::mem::take).unwrap_or_default();
        if let Operation::Leaf(leaf) = node.operation {
            if let Some(leaf) = self.leaves.get_mut(leaf) {
                leaf.read_wide(count, out, &mut values).await?;
            }
        } else {
            self.widen_operands(index);
            let factors = self.factors.get(index).map_or(&[][..], Vec::as_slice);
            values.clear();
            values.resize(count, 0.0);
            for (i, (factor, operand)) in factors.iter().zip(self.wide_operands(index)).enumerate() {
                // The first is not added to zero, which would lose a zero's sign.
                let add =
                    |(sum, v): (&mut f64, &f64)| *sum = if i == 0 { factor * v } else { *sum + factor * v };
                values.iter_mut().zip(operand).for_each(add);
            }
            self.measure_wide(index, &values);
        }
        if node.dtype != Dtype::F64 || index + 1 == plan.nodes.len() {
            narrow(&values, out);
        }
        // By way of f32, as torch converts.
        node.rounds.iter().filter(|_| node.dtype != Dtype::F64).for_each(|dtype| round_through(*dtype, out));
        if let Some(place) = self.wide.values.get_mut(index) {
            *place = values;
        }
        Ok(())
    }

    /// Adds the current chunks of a SLERP's operands to the sums of a·a, b·b and a·b, one element
    /// after the other, so that chunks do not show; `false` where its arithmetic is in f32.
    pub(super) fn add_wide(&mut self, slerp: usize, sums: &mut [f64; 3]) -> bool {
        if !self.plan.nodes.get(slerp).is_some_and(computes) {
            return false;
        }
        self.widen_operands(slerp);
        if let [a, b] = *self.wide_operands(slerp) {
            for (a, b) in a.iter().zip(b) {
                sums.iter_mut().zip([a * a, b * b, a * b]).for_each(|(sum, product)| *sum += product);
            }
        }
        true
    }

    fn measure_wide(&mut self, index: usize, result: &[f64]) {
        let mut measures = std::mem::take(&mut self.measures);
        let (mut values, mut difference) = (Vec::new(), Vec::new());
        for (i, operand) in self.wide_operands(index).into_iter().enumerate() {
            narrow(operand, &mut values);
            difference.clear();
            difference.extend(result.iter().zip(operand).map(|(r, v)| (r - v) as f32));
            measures.add(index, i, &values, &difference);
        }
        self.measures = measures;
    }

    /// Fills the casts of operands that are in f32.
    fn widen_operands(&mut self, index: usize) {
        let Some(node) = self.plan.nodes.get(index) else { return };
        let mut casts = std::mem::take(&mut self.wide.casts);
        casts.resize(node.operands.len(), Vec::new());
        for (operand, cast) in node.operands.iter().zip(&mut casts) {
            cast.clear();
            if self.wide_values(*operand).is_none() {
                let values = self.values.get(*operand).map_or(&[][..], Vec::as_slice);
                cast.extend(values.iter().copied().map(f64::from));
            }
        }
        self.wide.casts = casts;
    }

    /// The current chunks of a node's operands; [`Self::widen_operands`] goes before.
    fn wide_operands(&self, index: usize) -> Vec<&[f64]> {
        let operands = self.plan.nodes.get(index).map_or(&[][..], |node| &node.operands);
        let slices = operands.iter().zip(&self.wide.casts);
        slices.map(|(operand, cast)| self.wide_values(*operand).unwrap_or(cast)).collect()
    }
}

/// Replaces `out` by the values in f32.
fn narrow(values: &[f64], out: &mut Vec<f32>) {
    out.clear();
    out.extend(values.iter().map(|value| *value as f32));
}
