//! One weight file of a merge, computed while it is read.

use std::ops::Range;
use std::rc::Rc;

use super::evaluate::{Evaluation, Solved};
use super::feed::{self, Feed, Feeds};
use super::merged::{Inner, SCALE_SUFFIX};
use super::on_gpu::{Failure, OnGpu, PIECE_ELEMENTS, precision};
use super::report::{Combination, SlerpReport, TensorReport};
use super::tensor::{Operation, TensorPlan};
use crate::checkpoint::writer::PlannedShard;
use crate::checkpoint::{ByteSource, CheckpointError, SourceError, TensorInfo};
use crate::dtype::{DtypeError, find_non_finite, narrow, quantize_row_e4m3};
use crate::gpu::GpuError;

/// A range of one weight file.
pub struct ShardMerge<S: ByteSource> {
    inner: Rc<Inner<S>>,
    shard: usize,
    /// Next byte of the file, and the byte after the last.
    at: u64,
    end: u64,
    running: Option<Running<S>>,
    /// Connections to parents, each at the first byte of a tensor that comes next.
    feeds: Vec<Feed<S>>,
}

/// Where a tensor is computed.
enum Evaluator<S: ByteSource> {
    Cpu(Box<Evaluation<S>>),
    Gpu(OnGpu),
}

impl<S: ByteSource> Evaluator<S> {
    /// What the report calls it.
    fn path(&self) -> &'static str {
        match self {
            Evaluator::Cpu(_) => "cpu",
            Evaluator::Gpu(_) => "gpu",
        }
    }
}

/// A tensor in the middle of its computation.
struct Running<S: ByteSource> {
    info: TensorInfo,
    evaluation: Evaluator<S>,
    /// Elements that were computed.
    element: u64,
}

impl<S: ByteSource + Clone> ShardMerge<S> {
    pub(super) fn new(inner: Rc<Inner<S>>, shard: usize, range: Option<Range<u64>>) -> ShardMerge<S> {
        let length = inner.plan.shards.get(shard).map_or(0, |shard| shard.header.file_bytes());
        let range = range.unwrap_or(0..length);
        let end = range.end.min(length);
        ShardMerge { inner, shard, at: range.start.min(end), end, running: None, feeds: Vec::new() }
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.inner.plan.shards.get(self.shard).map_or(0, |shard| shard.header.file_bytes())
    }

    /// The next piece: about [`MergeOptions::chunk_elements`](super::MergeOptions) elements.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        if self.at >= self.end {
            self.running = None;
            return Ok(None);
        }
        let inner = self.inner.clone();
        let Some(shard) = inner.plan.shards.get(self.shard) else { return Ok(None) };
        let data_start = shard.header.data_start;
        if self.at < data_start {
            // The head was made in memory, so its length fits usize.
            let range = self.at as usize..self.end.min(data_start) as usize;
            self.at += range.len() as u64;
            return Ok(shard.head.get(range).map(<[u8]>::to_vec));
        }
        let result = self.data(&inner, shard, self.at - data_start).await;
        if result.is_err() {
            (self.running, self.at) = (None, self.end);
            self.feeds.clear();
        }
        result.map(Some)
    }

    async fn data(
        &mut self,
        inner: &Rc<Inner<S>>,
        shard: &PlannedShard,
        offset: u64,
    ) -> Result<Vec<u8>, SourceError> {
        let tensors = &shard.header.tensors;
        let position = tensors.partition_point(|tensor| tensor.end <= offset);
        let Some(info) = tensors.get(position) else { return Ok(Vec::new()) };
        let (mut bytes, first) = match info.name.strip_suffix(SCALE_SUFFIX) {
            Some(weight) => (scales(inner, weight).await?, info.begin),
            None => self.weights(inner, shard, position).await?,
        };
        let skip = (offset - first).min(bytes.len() as u64) as usize;
        bytes.drain(..skip);
        bytes.truncate((self.end - self.at).min(bytes.len() as u64) as usize);
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    /// Chunks of a tensor up to the one that holds the next byte, and where that one begins.
    async fn weights(
        &mut self,
        inner: &Rc<Inner<S>>,
        shard: &PlannedShard,
        position: usize,
    ) -> Result<(Vec<u8>, u64), SourceError> {
        let Some(info) = shard.header.tensors.get(position) else { return Ok(Default::default()) };
        let data_start = shard.header.data_start;
        let mut running = match self.running.take() {
            Some(running) if running.info == *info => running,
            _ => {
                let run = |parent| feed::run(inner, shard, position, self.end - data_start, parent);
                let open = std::mem::take(&mut self.feeds);
                let mut feeds = Feeds { open, next: &mut self.feeds, run: &run };
                let evaluation = start(inner, &info.name, &mut feeds).await?;
                Running { info: info.clone(), evaluation, element: 0 }
            }
        };
        let offset = self.at - data_start;
        let size = info.dtype.size_bytes();
        loop {
            let first = info.begin + running.element * size;
            let bytes = running.next(inner).await?;
            if bytes.is_empty() || first + bytes.len() as u64 > offset {
                if running.element < info.elements() {
                    self.running = Some(running);
                } else if let Evaluator::Cpu(evaluation) = running.evaluation {
                    self.feeds.extend(evaluation.into_feeds());
                }
                return Ok((bytes, first));
            }
        }
    }
}

impl<S: ByteSource + Clone> Running<S> {
    async fn next(&mut self, inner: &Inner<S>) -> Result<Vec<u8>, SourceError> {
        let left = self.info.elements().saturating_sub(self.element);
        let mut count = left.min(match self.evaluation {
            Evaluator::Cpu(ref evaluation) => evaluation.chunk(inner.options.chunk_elements) as u64,
            // Each readback is a round trip.
            Evaluator::Gpu(_) => PIECE_ELEMENTS as u64,
        });
        let cols = self.info.shape.last().copied().unwrap_or(1).max(1);
        if self.info.dtype.is_f8() {
            // Whole rows, since each has a scale of its own.
            count = left.min((count / cols).max(1) * cols);
        }
        let wrap = |error| wrap(&self.info.name, error);
        let mut bytes = Vec::new();
        let dtype = self.info.dtype;
        if let Evaluator::Cpu(evaluation) = &mut self.evaluation
            && evaluation.next_stored(dtype, count as usize, &mut bytes).await.map_err(wrap)?
        {
            self.finish(count, &bytes)?;
            return Ok(bytes);
        }
        let values = match &mut self.evaluation {
            Evaluator::Cpu(evaluation) => evaluation.next(count as usize).await.map_err(wrap)?,
            Evaluator::Gpu(result) => {
                let Some(gpu) = inner.gpu.take() else {
                    let detail = "the merge is being read in two places at once".to_owned();
                    return Err(SourceError::Io { file: self.info.name.clone(), detail });
                };
                let values = result.next(&gpu, count as usize).await;
                inner.gpu.set(Some(gpu));
                values.map_err(|error| SourceError::Io {
                    file: self.info.name.clone(),
                    detail: format!("{error}; merge again, on the CPU if it persists"),
                })?
            }
        };
        if dtype.is_f8() {
            bytes.resize(values.len(), 0);
            let mut scales = inner.scales.borrow_mut();
            let scales = scales.entry(self.info.name.clone()).or_default();
            scales.truncate((self.element / cols) as usize);
            for (row, codes) in values.chunks_exact(cols as usize).zip(bytes.chunks_exact_mut(cols as usize))
            {
                scales.push(quantize_row_e4m3(row, codes).map_err(|_| overflow(&self.info, self.element))?);
            }
            self.element += count;
        } else {
            narrow(dtype, values, &mut bytes).map_err(|error| wrap(self.failed(error)))?;
            self.finish(count, &bytes)?;
        }
        Ok(bytes)
    }

    /// Counts elements as done if all of them are finite.
    fn finish(&mut self, count: u64, bytes: &[u8]) -> Result<(), SourceError> {
        let found = find_non_finite(self.info.dtype, bytes);
        match found.map_err(|error| wrap(&self.info.name, self.failed(error)))? {
            None => {
                self.element += count;
                Ok(())
            }
            Some(index) => Err(overflow(&self.info, self.element + index as u64)),
        }
    }

    fn failed(&self, source: DtypeError) -> CheckpointError {
        CheckpointError::Values { file: "the result".into(), tensor: self.info.name.clone(), source }
    }
}

/// Row scales of a quantised tensor, which is computed once more if it was not before.
async fn scales<S: ByteSource + Clone>(inner: &Rc<Inner<S>>, weight: &str) -> Result<Vec<u8>, SourceError> {
    let known = |inner: &Inner<S>| {
        let (info, scales) = (inner.info(weight)?, inner.scales.borrow());
        let scales = scales.get(weight).filter(|scales| scales.len() as u64 == info.rows())?;
        Some(scales.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<u8>>())
    };
    if let Some(bytes) = known(inner) {
        return Ok(bytes);
    }
    if let Some(info) = inner.info(weight) {
        let mut feeds = Feeds { open: Vec::new(), next: &mut Vec::new(), run: &|_| 1 };
        let evaluation = start(inner, weight, &mut feeds).await?;
        let mut running = Running { info: info.clone(), evaluation, element: 0 };
        while running.element < info.elements() {
            running.next(inner).await?;
        }
    }
    Ok(known(inner).unwrap_or_default())
}

/// Opens a tensor's leaves, takes its sums and reports them.
async fn start<S: ByteSource + Clone>(
    inner: &Inner<S>,
    tensor: &str,
    feeds: &mut Feeds<'_, S>,
) -> Result<Evaluator<S>, SourceError> {
    let wrap = |error| wrap(tensor, error);
    let unknown = || wrap(CheckpointError::UnknownTensor { tensor: tensor.to_owned() });
    let plan = inner.tensors.get(tensor).ok_or_else(unknown)?.clone();
    let (evaluator, solved) = match on_gpu(inner, &plan, feeds).await.map_err(wrap)? {
        Some((result, solved)) => (Evaluator::Gpu(result), solved),
        None => {
            let opened = Evaluation::open(plan.clone(), &inner.parents, &inner.cancelled, feeds).await;
            let mut evaluation = opened.map_err(wrap)?;
            let solved = evaluation.prepare(inner.options.chunk_elements.max(1)).await.map_err(wrap)?;
            (Evaluator::Cpu(Box::new(evaluation)), solved)
        }
    };
    inner.tell(&plan, &solved, evaluator.path());
    Ok(evaluator)
}

/// Merges a tensor on the GPU, if there is one and it can; on any fault of the device the CPU does.
async fn on_gpu<S: ByteSource + Clone>(
    inner: &Inner<S>,
    plan: &Rc<TensorPlan>,
    feeds: &mut Feeds<'_, S>,
) -> Result<Option<(OnGpu, Vec<Solved>)>, CheckpointError> {
    let Some(dtype) = precision(plan) else { return Ok(None) };
    let Some(mut gpu) = inner.gpu.take() else { return Ok(None) };
    let merged = OnGpu::merge(&mut gpu, plan, dtype, &inner.parents, &inner.cancelled, feeds).await;
    match merged {
        Ok(merged) => {
            inner.gpu.set(Some(gpu));
            Ok(Some(merged))
        }
        // A tensor that does not fit may be followed by one that does.
        Err(Failure::Gpu(GpuError::OutOfMemory { .. } | GpuError::TooLarge { .. })) => {
            inner.gpu.set(Some(gpu));
            Ok(None)
        }
        Err(Failure::Gpu(error)) => {
            let warning = format!("{}: {error}; the CPU goes on", plan.name);
            inner.report.borrow_mut().warnings.push(warning);
            Ok(None)
        }
        Err(Failure::Checkpoint(error)) => {
            inner.gpu.set(Some(gpu));
            Err(error)
        }
    }
}

fn wrap(tensor: &str, error: CheckpointError) -> SourceError {
    match error {
        CheckpointError::Source(error @ (SourceError::Aborted | SourceError::Parent { .. })) => error,
        other => SourceError::Parent { model: format!("merging {tensor}"), error: other.into() },
    }
}

fn overflow(info: &TensorInfo, element: u64) -> SourceError {
    wrap(&info.name, CheckpointError::Overflow { dtype: info.dtype, element })
}

impl<S> Inner<S> {
    fn info(&self, tensor: &str) -> Option<&TensorInfo> {
        self.plan.tensors().find(|info| info.name == tensor)
    }

    /// Adds what was found about a tensor to the report.
    fn tell(&self, plan: &TensorPlan, solved: &[Solved], path: &'static str) {
        let several = self.recipe.documents.len() > 1;
        let mut on_tensor = self.on_tensor.take();
        for (index, node) in plan.nodes.iter().enumerate() {
            let Some((document, tensor)) = &node.origin else { continue };
            let solved = solved.iter().find(|solved| solved.node == index);
            let (method, coefficients, slerp) = match (&node.operation, solved) {
                (Operation::Slerp(t), Some(Solved { coefficients, sums, .. })) => {
                    let slerp = SlerpReport {
                        t: *t,
                        dot: coefficients.dot,
                        branch: coefficients.branch,
                        norms: coefficients.norms,
                        distances: coefficients.distances(*sums),
                        path,
                    };
                    (Combination::Slerp, coefficients.factors.to_vec(), Some(slerp))
                }
                (Operation::Linear(factors), _) if factors.len() == 1 => {
                    (Combination::Passthrough, factors.clone(), None)
                }
                (Operation::Linear(factors), _) => (Combination::Linear, factors.clone(), None),
                _ => continue,
            };
            let named = self.recipe.documents.get(*document);
            let name = named.map(|d| d.name.clone().unwrap_or_else(|| (document + 1).to_string()));
            let report = TensorReport {
                tensor: tensor.clone(),
                document: name.filter(|_| several),
                shape: plan.shape.clone(),
                method,
                sources: node.operands.iter().map(|&operand| self.describe(plan, operand)).collect(),
                coefficients,
                slerp,
                is_of_the_last: document + 1 == self.recipe.documents.len(),
            };
            if let Some(on_tensor) = &mut on_tensor {
                on_tensor(&report);
            }
            let reports = &mut self.report.borrow_mut().tensors;
            // A range that is read again is computed again.
            reports.retain(|known| known.tensor != report.tensor || known.document != report.document);
            reports.push(report);
        }
        self.on_tensor.set(on_tensor);
    }

    fn describe(&self, plan: &TensorPlan, operand: usize) -> String {
        let Some(node) = plan.nodes.get(operand) else { return String::new() };
        if let Operation::Leaf(leaf) = node.operation
            && let Some(leaf) = plan.leaves.get(leaf)
        {
            let parent = self.parents.get(leaf.parent).map(|parent| parent.name.to_string());
            return format!("{}: {}", parent.unwrap_or_default(), leaf.tensor);
        }
        let Some((document, tensor)) = &node.origin else { return String::new() };
        let name = self.recipe.documents.get(*document).and_then(|document| document.name.clone());
        format!("{}: {tensor}", name.unwrap_or_else(|| format!("document {}", document + 1)))
    }
}
