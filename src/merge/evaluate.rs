//! One output tensor, chunk by chunk, on the CPU.
//!
//! A SLERP needs sums over its whole operands before its first element is known. So the leaves
//! are gone through once per level of SLERPs, then once more for the result; what a chunk does
//! not need any more is forgotten. Memory: one chunk of f32 per node, and the leaves' bytes where
//! they are few enough to be kept.

use std::rc::Rc;

use super::leaf::{Cancelled, Fetch, LeafReader};
use super::parent::Parent;
use super::slerp::{Coefficients, Sums, coefficients, combine};
use super::tensor::{Node, Operation, TensorPlan};
use crate::checkpoint::{ByteSource, CheckpointError};
use crate::dtype::{Dtype, round_through};

/// Leaves of one tensor that may be kept between two passes, bytes in all.
const KEPT_LIMIT_BYTES: u64 = 48 << 20;

/// Most leaves that are streamed side by side, each over a connection of its own.
const STREAMS: usize = 3;

/// Values that all nodes together may hold of one chunk.
const CHUNK_VALUES: usize = 4 << 20;

/// What the sums of a SLERP node led to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Solved {
    pub(super) node: usize,
    pub(super) sums: [f64; 3],
    pub(super) coefficients: Coefficients,
}

/// The computation of one tensor.
pub(super) struct Evaluation<S: ByteSource> {
    plan: Rc<TensorPlan>,
    leaves: Vec<LeafReader<S>>,
    /// Factors of every node's operands, once known.
    factors: Vec<Vec<f32>>,
    /// The current chunk of every node.
    values: Vec<Vec<f32>>,
    /// Operands that had to be cast.
    casts: Vec<Vec<f32>>,
    needed: Vec<bool>,
}

impl<S: ByteSource + Clone> Evaluation<S> {
    /// Opens the leaves.
    pub(super) async fn open(
        plan: Rc<TensorPlan>,
        parents: &[Parent<S>],
        cancelled: &Cancelled,
    ) -> Result<Evaluation<S>, CheckpointError> {
        let bytes_of = |leaf: &super::tensor::Leaf| {
            let parent = parents.get(leaf.parent)?;
            Some(parent.manifest.get(&leaf.tensor)?.1.bytes())
        };
        let bytes = plan.leaves.iter().filter_map(bytes_of).fold(0_u64, u64::saturating_add);
        let keep = plan.levels() > 0 && bytes <= KEPT_LIMIT_BYTES;
        let mut leaves = Vec::new();
        for leaf in &plan.leaves {
            let unknown = || CheckpointError::UnknownTensor { tensor: leaf.tensor.clone() };
            let parent = parents.get(leaf.parent).ok_or_else(unknown)?;
            let fetch = Fetch { keep, windows: plan.leaves.len() > STREAMS };
            leaves.push(LeafReader::open(parent, &leaf.tensor, fetch, cancelled.clone()).await?);
        }
        let factors = plan.nodes.iter().map(|node| match &node.operation {
            Operation::Linear(factors) => factors.iter().map(|factor| *factor as f32).collect(),
            _ => Vec::new(),
        });
        let (factors, values) = (factors.collect(), vec![Vec::new(); plan.nodes.len()]);
        Ok(Evaluation { plan, leaves, factors, values, casts: Vec::new(), needed: Vec::new() })
    }

    /// Elements that may be computed together: `wanted`, or fewer where there are many nodes.
    pub(super) fn chunk(&self, wanted: usize) -> usize {
        wanted.min(CHUNK_VALUES / self.plan.nodes.len().max(1)).max(1)
    }

    /// Takes all sums, in chunks of `chunk` elements, and starts the pass that yields the result.
    pub(super) async fn prepare(&mut self, chunk: usize) -> Result<Vec<Solved>, CheckpointError> {
        let (mut all, chunk) = (Vec::new(), self.chunk(chunk));
        for level in 1..=self.plan.levels() {
            let slerps = self.plan.slerps_at(level);
            let nodes = slerps.iter().filter_map(|&slerp| self.plan.nodes.get(slerp));
            let operands: Vec<usize> = nodes.flat_map(|node| node.operands.iter().copied()).collect();
            self.begin(&operands).await?;
            let mut sums = vec![Sums::default(); slerps.len()];
            let mut left = self.plan.elements();
            while left > 0 {
                let count = left.min(chunk as u64) as usize;
                self.compute(count).await?;
                for (sums, &slerp) in sums.iter_mut().zip(&slerps) {
                    self.cast_operands(slerp);
                    if let [a, b] = *self.operands(slerp) {
                        sums.add(a, b);
                    }
                }
                left -= count as u64;
            }
            for (sums, slerp) in sums.iter().zip(slerps) {
                all.push(self.solve(slerp, sums.totals()));
            }
        }
        self.begin(&[self.plan.nodes.len().saturating_sub(1)]).await?;
        Ok(all)
    }

    /// The result's next `count` elements.
    pub(super) async fn next(&mut self, count: usize) -> Result<&[f32], CheckpointError> {
        self.compute(count).await?;
        Ok(self.values.last().map_or(&[], Vec::as_slice))
    }

    fn solve(&mut self, node: usize, sums: [f64; 3]) -> Solved {
        let t = match self.plan.nodes.get(node).map(|node| &node.operation) {
            Some(Operation::Slerp(t)) => *t,
            _ => 0.0,
        };
        let coefficients = coefficients(sums, t);
        if let Some(factors) = self.factors.get_mut(node) {
            *factors = coefficients.factors.map(|factor| factor as f32).to_vec();
        }
        Solved { node, sums, coefficients }
    }

    /// Starts a pass that computes these nodes.
    async fn begin(&mut self, wanted: &[usize]) -> Result<(), CheckpointError> {
        self.needed = self.plan.needed_for(wanted);
        for (node, needed) in self.plan.nodes.iter().zip(&self.needed) {
            if let Operation::Leaf(leaf) = node.operation
                && let Some(leaf) = self.leaves.get_mut(leaf)
            {
                if *needed { leaf.rewind().await? } else { leaf.close() }
            }
        }
        Ok(())
    }

    /// The next `count` elements of every node that this pass needs.
    async fn compute(&mut self, count: usize) -> Result<(), CheckpointError> {
        for index in 0..self.plan.nodes.len() {
            if !self.needed.get(index).copied().unwrap_or(false) {
                continue;
            }
            let plan = self.plan.clone();
            let Some(node) = plan.nodes.get(index) else { continue };
            let mut out = self.values.get_mut(index).map(std::mem::take).unwrap_or_default();
            if let Operation::Leaf(leaf) = node.operation {
                if let Some(leaf) = self.leaves.get_mut(leaf) {
                    leaf.read(count, &mut out).await?;
                }
            } else {
                self.cast_operands(index);
                let factors = self.factors.get(index).map_or(&[][..], Vec::as_slice);
                let terms: Vec<_> = factors.iter().copied().zip(self.operands(index)).collect();
                combine(&terms, &mut out);
                node.rounds.iter().for_each(|dtype| round_through(*dtype, &mut out));
            }
            if let Some(place) = self.values.get_mut(index) {
                *place = out;
            }
        }
        Ok(())
    }

    /// Casts the current chunks of a node's operands where they are not in its precision yet.
    fn cast_operands(&mut self, index: usize) {
        let Some(node) = self.plan.nodes.get(index) else { return };
        self.casts.resize(node.operands.len(), Vec::new());
        for (operand, cast) in node.operands.iter().zip(&mut self.casts) {
            cast.clear();
            let from = match self.plan.nodes.get(*operand) {
                Some(Node { operation: Operation::Leaf(leaf), .. }) => {
                    self.leaves.get(*leaf).map_or(Dtype::F32, LeafReader::dtype)
                }
                other => other.map_or(Dtype::F32, |node| node.dtype),
            };
            if let Some(to) = node.cast.filter(|&to| !fits(from, to)) {
                cast.extend_from_slice(self.values.get(*operand).map_or(&[], Vec::as_slice));
                round_through(to, cast);
            }
        }
    }

    /// The current chunks of a node's operands; [`Self::cast_operands`] goes before.
    fn operands(&self, index: usize) -> Vec<&[f32]> {
        let operands = self.plan.nodes.get(index).map_or(&[][..], |node| &node.operands);
        let slices = operands.iter().zip(&self.casts).map(|(operand, cast)| match cast.is_empty() {
            true => self.values.get(*operand).map_or(&[][..], Vec::as_slice),
            false => cast.as_slice(),
        });
        slices.collect()
    }
}

/// Whether every value of one type, read as f32, is one of the other.
fn fits(from: Dtype, to: Dtype) -> bool {
    // FP8 without scales has fewer bits than any of the wide types.
    from == to || from.is_f8() || matches!(to, Dtype::F32 | Dtype::F64)
}
