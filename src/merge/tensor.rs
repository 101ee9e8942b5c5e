//! One output tensor as a small graph: leaves are tensors of parents, every other node combines
//! earlier ones.

use super::parent::Parent;
use crate::dtype::Dtype;

/// How one output tensor comes about.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Its dimensions; those of every leaf, too.
    pub shape: Vec<u64>,
    /// Element type of the result before any quantisation.
    pub dtype: Dtype,
    /// Tensors that are read.
    pub leaves: Vec<Leaf>,
    /// Operands before their users; the last one is the result.
    pub nodes: Vec<Node>,
}

/// A tensor of a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Index of the parent.
    pub parent: usize,
    /// Its name there.
    pub tensor: String,
}

/// A step of the computation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it does.
    pub operation: Operation,
    /// The nodes it combines.
    pub operands: Vec<usize>,
    /// What operands are cast to first.
    pub cast: Option<Dtype>,
    /// What the result is rounded to, one after the other.
    pub rounds: Vec<Dtype>,
    /// Precision of the result.
    pub dtype: Dtype,
    /// Passes over the operands that must precede the one that yields this node.
    pub level: usize,
    /// Index of the document, and the tensor's name in its result.
    pub origin: Option<(usize, String)>,
}

/// How a node combines its operands.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Reads a leaf.
    Leaf(usize),
    /// SLERP of two at `t`; the first is the base.
    Slerp(f64),
    /// Sum of all, each times its factor.
    Linear(Vec<f64>),
}

impl TensorPlan {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Passes that take sums, before the one that yields the result.
    pub fn levels(&self) -> usize {
        self.nodes.last().map_or(0, |node| node.level)
    }

    /// The leaf whose values the result has as they are, where nothing else was asked for.
    fn copied(&self) -> Option<&Leaf> {
        let [Node { operation: Operation::Leaf(leaf), .. }, node] = &*self.nodes else { return None };
        let is_copy = matches!(&node.operation, Operation::Linear(factors) if **factors == [1.0]);
        let unasked = node.cast.is_none() && node.rounds.len() <= 1;
        self.leaves.get(*leaf).filter(|_| is_copy && unasked)
    }

    /// Whether the result is a parent's FP8 tensor as it is.
    pub(super) fn is_fp8_copy<S>(&self, parents: &[Parent<S>]) -> bool {
        let stored = |leaf: &Leaf| Some(parents.get(leaf.parent)?.manifest.get(&leaf.tensor)?.1.dtype);
        self.copied().and_then(stored).is_some_and(Dtype::is_f8)
    }

    /// Whether, in FP8, the result has a parent's codes and scales as they are: only F8_E4M3 with at most one
    /// scale in a row can be stored by rows.
    pub(super) fn keeps_codes<S>(&self, parents: &[Parent<S>]) -> bool {
        self.copied().is_some_and(|leaf| {
            parents.get(leaf.parent).is_some_and(|parent| parent.has_row_scales(&leaf.tensor))
        })
    }

    /// Leaves a copy's values as they are, for FP8 to be rounded to once.
    pub(super) fn round_no_copy(&mut self) {
        if self.copied().is_some()
            && let Some(node) = self.nodes.last_mut()
        {
            node.rounds.clear();
        }
    }

    /// The SLERP nodes whose operands can be computed once those of all lower levels are known.
    pub(super) fn slerps_at(&self, level: usize) -> Vec<usize> {
        let is_slerp = |node: &Node| matches!(node.operation, Operation::Slerp(_));
        let all = self.nodes.iter().enumerate();
        all.filter(|(_, node)| is_slerp(node) && node.level == level).map(|(i, _)| i).collect()
    }

    /// Which nodes are needed, directly or not, to compute `wanted`; itself included.
    pub(super) fn needed_for(&self, wanted: &[usize]) -> Vec<bool> {
        let mut needed = vec![false; self.nodes.len()];
        let mut open = wanted.to_vec();
        while let Some(node) = open.pop() {
            if let Some(flag) = needed.get_mut(node).filter(|flag| !**flag) {
                *flag = true;
                open.extend(self.nodes.get(node).into_iter().flat_map(|node| &node.operands));
            }
        }
        needed
    }
}
