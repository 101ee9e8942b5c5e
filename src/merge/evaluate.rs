//! One output tensor, chunk by chunk, on the CPU.
//!
//! A SLERP needs sums over its whole operands before its first element is known. So the leaves
//! are gone through once per level of SLERPs, then once more for the result; what a chunk does
//! not need any more is forgotten. Memory: one chunk of f32 per node, and the leaves' bytes where
//! they are few enough to be kept.

use std::rc::Rc;

use futures_util::future::try_join_all;

use super::feed::{Feed, Feeds};
use super::leaf::{Cancelled, Fetch, LeafReader};
use super::parent::Parent;
use super::slerp::{Coefficients, Sums, blend_bf16, coefficients, combine};
use super::tensor::{Leaf, Node, Operation, TensorPlan};
use crate::checkpoint::{ByteSource, CheckpointError};
use crate::dtype::{Dtype, round_through};

mod measure;
mod wide;

pub(super) use measure::Measured;
use measure::Measures;
use wide::Wide;

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

/// The next elements of a result.
pub(super) struct Chunk<'a, S: ByteSource> {
    pub(super) values: &'a [f32],
    /// Where f32 does not hold them.
    pub(super) wide: Option<&'a [f64]>,
    /// Where the result is a parent's FP8 tensor as it is: that one, with the codes of these elements.
    pub(super) stored: Option<&'a LeafReader<S>>,
}

/// The computation of one tensor.
pub(super) struct Evaluation<S: ByteSource> {
    plan: Rc<TensorPlan>,
    leaves: Vec<LeafReader<S>>,
    /// Factors of every node's operands, once known.
    factors: Vec<Vec<f64>>,
    /// The current chunk of every node.
    values: Vec<Vec<f32>>,
    /// Operands that had to be cast.
    casts: Vec<Vec<f32>>,
    needed: Vec<bool>,
    wide: Wide,
    measures: Measures,
}

impl<S: ByteSource + Clone> Evaluation<S> {
    /// Opens the leaves.
    pub(super) async fn open(
        plan: Rc<TensorPlan>,
        parents: &[Parent<S>],
        kept_bytes: u64,
        cancelled: &Cancelled,
        feeds: &mut Feeds<'_, S>,
    ) -> Result<Evaluation<S>, CheckpointError> {
        let keep = if plan.levels() > 0 { share(&plan, kept_bytes) } else { 0 };
        let mut leaves = Vec::new();
        for leaf in &plan.leaves {
            let fetch = Fetch { keep, windows: plan.leaves.len() > STREAMS };
            leaves.push(LeafReader::open(parents, leaf, fetch, cancelled.clone(), feeds).await?);
        }
        if plan.keeps_codes(parents)
            && let Some(leaf) = leaves.first_mut()
        {
            leaf.keep_stored();
        }
        let factors = plan.nodes.iter().map(|node| match &node.operation {
            Operation::Linear(factors) => factors.clone(),
            _ => Vec::new(),
        });
        let (factors, values) = (factors.collect(), vec![Vec::new(); plan.nodes.len()]);
        let (casts, needed, wide, measures) = Default::default();
        Ok(Evaluation { plan, leaves, factors, values, casts, needed, wide, measures })
    }

    /// The connections that go on into the next tensor, once this one was read.
    pub(super) fn into_feeds(self) -> impl Iterator<Item = Feed<S>> {
        self.leaves.into_iter().filter_map(LeafReader::into_feed)
    }

    /// The same, as soon as all of this one is in memory.
    pub(super) fn take_feeds(&mut self) -> impl Iterator<Item = Feed<S>> {
        self.leaves.iter_mut().filter_map(LeafReader::take_feed)
    }

    /// Whether all that it reads is in memory.
    pub(super) fn is_gathered(&self) -> bool {
        self.leaves.iter().all(LeafReader::is_kept)
    }

    pub(super) fn plan(&self) -> &Rc<TensorPlan> {
        &self.plan
    }

    /// Fetches what the first pass reads, where all of it may be kept.
    pub(super) async fn gather(&mut self) -> Result<(), CheckpointError> {
        let operands = self.operands_at(1);
        self.begin(&operands).await
    }

    /// The operands of a level's SLERPs.
    fn operands_at(&self, level: usize) -> Vec<usize> {
        let slerps = self.plan.slerps_at(level);
        let nodes = slerps.iter().filter_map(|&slerp| self.plan.nodes.get(slerp));
        nodes.flat_map(|node| node.operands.iter().copied()).collect()
    }

    /// Whether the result is a SLERP of two tensors of BF16 in BF16, which needs no values in between.
    fn is_direct(&self) -> bool {
        let bf16 = |dtype: &Dtype| *dtype == Dtype::Bf16;
        let [Node { operation: Operation::Leaf(0), .. }, Node { operation: Operation::Leaf(1), .. }, node] =
            &*self.plan.nodes
        else {
            return false;
        };
        matches!(node.operation, Operation::Slerp(_))
            && node.cast.iter().chain(&node.rounds).all(bf16)
            && self.leaves.iter().all(|leaf| leaf.stored() == Some(Dtype::Bf16))
    }

    /// Elements that may be computed together: `wanted`, or fewer where there are many nodes.
    pub(super) fn chunk(&self, wanted: usize) -> usize {
        wanted.min(CHUNK_VALUES / self.plan.nodes.len().max(1)).max(1)
    }

    /// Takes all sums, in chunks of `chunk` elements, and starts the pass that yields the result. Meanwhile
    /// what is on its way from `busy`, if that is given, may arrive.
    pub(super) async fn prepare(
        &mut self,
        chunk: usize,
        busy: Option<&S>,
    ) -> Result<Vec<Solved>, CheckpointError> {
        let (mut all, chunk) = (Vec::new(), self.chunk(chunk));
        for level in 1..=self.plan.levels() {
            let slerps = self.plan.slerps_at(level);
            self.begin(&self.operands_at(level)).await?;
            let mut sums = vec![(Sums::default(), [0.0; 3]); slerps.len()];
            let mut left = self.plan.elements();
            if let (true, [(sums, _)]) = (self.is_direct(), &mut *sums) {
                while left > 0 {
                    let count = left.min(chunk as u64);
                    self.each_pair(count, |a, b| sums.add_bf16(a, b)).await?;
                    left -= count;
                    turn(busy).await;
                }
            }
            while left > 0 {
                let count = left.min(chunk as u64) as usize;
                self.compute(count).await?;
                for ((sums, wide), &slerp) in sums.iter_mut().zip(&slerps) {
                    if self.add_wide(slerp, wide) {
                        continue;
                    }
                    self.cast_operands(slerp);
                    if let [a, b] = *self.operands(slerp) {
                        sums.add(a, b);
                    }
                }
                left -= count as u64;
                turn(busy).await;
            }
            for ((sums, wide), slerp) in sums.iter().zip(slerps) {
                let is_wide = self.plan.nodes.get(slerp).is_some_and(wide::computes);
                all.push(self.solve(slerp, if is_wide { *wide } else { sums.totals() }));
            }
        }
        self.begin_last().await?;
        Ok(all)
    }

    /// Goes on behind `element`, the first of which others have computed with these sums.
    pub(super) async fn resume(
        &mut self,
        solved: &[Solved],
        element: u64,
        chunk: usize,
    ) -> Result<(), CheckpointError> {
        solved.iter().for_each(|solved| self.set_factors(solved));
        self.begin_last().await?;
        let (mut left, chunk) = (element, self.chunk(chunk));
        while left > 0 {
            let count = left.min(chunk as u64);
            self.compute(count as usize).await?;
            left -= count;
        }
        Ok(())
    }

    /// Starts the pass that yields the result, and computes every node once.
    async fn begin_last(&mut self) -> Result<(), CheckpointError> {
        self.begin(&[self.plan.nodes.len().saturating_sub(1)]).await?;
        self.measures = Measures::begin(&self.plan);
        Ok(())
    }

    /// The result's next `count` elements.
    pub(super) async fn next(&mut self, count: usize) -> Result<Chunk<'_, S>, CheckpointError> {
        self.compute(count).await?;
        let values = self.values.last().map_or(&[][..], Vec::as_slice);
        let wide = self.wide_values(self.plan.nodes.len().saturating_sub(1));
        Ok(Chunk { values, wide, stored: self.leaves.first().filter(|leaf| leaf.keeps_stored()) })
    }

    /// Appends the result's next `count` elements, as they are stored. `false`: [`Self::next`] has to be
    /// asked for their values.
    pub(super) async fn next_stored(
        &mut self,
        dtype: Dtype,
        count: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, CheckpointError> {
        if dtype != Dtype::Bf16 || !self.is_direct() {
            return Ok(false);
        }
        let factors = self.factors.last().and_then(|factors| factors.first_chunk());
        let Some(factors) = factors.map(|factors: &[f64; 2]| factors.map(|factor| factor as f32)) else {
            return Ok(false);
        };
        let begin = out.len();
        out.reserve_exact(count * 2);
        out.resize(begin + count * 2, 0);
        let mut left = out.get_mut(begin..).unwrap_or_default().as_chunks_mut().0;
        let blend = |a: &[[u8; 2]], b: &[[u8; 2]]| {
            blend_bf16(factors, a, b, left);
            left = std::mem::take(&mut left).get_mut(a.len()..).unwrap_or_default();
        };
        self.each_pair(count as u64, blend).await?;
        Ok(true)
    }

    /// Passes the next `count` elements of both operands on, in runs as they lie ready.
    async fn each_pair(
        &mut self,
        mut count: u64,
        mut take: impl FnMut(&[[u8; 2]], &[[u8; 2]]),
    ) -> Result<(), CheckpointError> {
        let Some([first, second]) =
            self.plan.nodes.last().and_then(|node| node.operands.first_chunk()).copied()
        else {
            return Ok(());
        };
        let [a, b] = &mut *self.leaves else { return Ok(()) };
        while count > 0 {
            if a.available().is_empty() || b.available().is_empty() {
                try_join_all([&mut *a, &mut *b].map(LeafReader::fill)).await?;
            }
            let (a_run, b_run) = (a.available().as_chunks().0, b.available().as_chunks().0);
            let run = a_run.len().min(b_run.len()).min(usize::try_from(count).unwrap_or(usize::MAX));
            let (a_run, b_run) = (a_run.split_at(run).0, b_run.split_at(run).0);
            if first < second {
                take(a_run, b_run)
            } else {
                take(b_run, a_run)
            }
            a.advance(run);
            b.advance(run);
            count -= run as u64;
        }
        Ok(())
    }

    fn solve(&mut self, node: usize, sums: [f64; 3]) -> Solved {
        let t = match self.plan.nodes.get(node).map(|node| &node.operation) {
            Some(Operation::Slerp(t)) => *t,
            _ => 0.0,
        };
        let solved = Solved { node, sums, coefficients: coefficients(sums, t) };
        self.set_factors(&solved);
        solved
    }

    fn set_factors(&mut self, solved: &Solved) {
        if let Some(factors) = self.factors.get_mut(solved.node) {
            *factors = solved.coefficients.factors.to_vec();
        }
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
        // What comes while nobody reads from it fills the connection's buffers, and waits.
        try_join_all(self.leaves.iter_mut().map(LeafReader::gather)).await?;
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
            if wide::computes(node) {
                self.compute_wide(index, count, &mut out).await?;
            } else if let Operation::Leaf(leaf) = node.operation {
                if let Some(leaf) = self.leaves.get_mut(leaf) {
                    leaf.read(count, &mut out).await?;
                }
            } else {
                self.cast_operands(index);
                let factors = self.factors.get(index).map_or(&[][..], Vec::as_slice);
                let factors = factors.iter().map(|factor| *factor as f32);
                let terms: Vec<_> = factors.zip(self.operands(index)).collect();
                combine(&terms, &mut out);
                if matches!(node.operation, Operation::Linear(_)) {
                    self.measure(index, &out);
                }
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
        let mut casts = std::mem::take(&mut self.casts);
        casts.resize(node.operands.len(), Vec::new());
        for (operand, cast) in node.operands.iter().zip(&mut casts) {
            cast.clear();
            if let Some(wide) = self.wide_values(*operand) {
                // By way of f32, as torch converts.
                cast.extend(wide.iter().map(|value| *value as f32));
                node.cast.iter().for_each(|to| round_through(*to, cast));
                continue;
            }
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
        self.casts = casts;
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

async fn turn(busy: Option<&impl ByteSource>) {
    if let Some(source) = busy {
        source.turn().await;
    }
}

/// What may be kept of each leaf, of `kept_bytes` in all.
fn share(plan: &TensorPlan, kept_bytes: u64) -> u64 {
    kept_bytes / plan.leaves.len().max(1) as u64
}

/// Size of all that a tensor is computed from.
pub(super) fn bytes_of_leaves<S>(plan: &TensorPlan, parents: &[Parent<S>]) -> u64 {
    let bytes_of = |leaf: &Leaf| Some(parents.get(leaf.parent)?.manifest.get(&leaf.tensor)?.1.bytes());
    plan.leaves.iter().filter_map(bytes_of).fold(0, u64::saturating_add)
}

/// Whether each leaf's bytes are asked for once, and over one connection.
pub(super) fn is_read_once<S>(plan: &TensorPlan, parents: &[Parent<S>], kept_bytes: u64) -> bool {
    let bytes_of = |leaf: &Leaf| Some(parents.get(leaf.parent)?.manifest.get(&leaf.tensor)?.1.bytes());
    let share = share(plan, kept_bytes);
    let can_be_kept = || plan.leaves.iter().filter_map(bytes_of).all(|bytes| bytes <= share);
    plan.leaves.len() <= STREAMS && (plan.levels() == 0 || can_be_kept())
}

/// Whether every value of one type, read as f32, is one of the other.
fn fits(from: Dtype, to: Dtype) -> bool {
    // FP8 without scales has fewer bits than any of the wide types.
    from == to || from.is_f8() || matches!(to, Dtype::F32 | Dtype::F64)
}
