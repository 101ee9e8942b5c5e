//! One weight file of a merge, computed while it is read.

use std::ops::Range;
use std::rc::Rc;

use super::ahead::Ahead;
use super::evaluate::{Chunk, Evaluation, Solved};
use super::feed::{self, Feeds};
use super::merged::{Inner, SCALE_SUFFIX};
use super::on_gpu::{Failure, OnGpu, PIECE_ELEMENTS, precision};
use super::tell::Computed;
use super::tensor::TensorPlan;
use crate::checkpoint::writer::PlannedShard;
use crate::checkpoint::{ByteSource, CheckpointError, SourceError, TensorInfo};
use crate::dtype::{Dtype, DtypeError, find_non_finite, narrow, quantize_row_e4m3};
use crate::gpu::GpuError;

/// A range of one weight file.
pub struct ShardMerge<S: ByteSource> {
    inner: Rc<Inner<S>>,
    shard: usize,
    /// Next byte of the file, and the byte after the last.
    at: u64,
    end: u64,
    running: Option<Running<S>>,
    ahead: Ahead<S>,
}

/// Where a tensor is computed.
enum Evaluator<S: ByteSource> {
    Cpu(Box<Evaluation<S>>),
    Gpu(OnGpu),
}

/// A tensor in the middle of its computation.
struct Running<S: ByteSource> {
    info: TensorInfo,
    plan: Rc<TensorPlan>,
    evaluation: Evaluator<S>,
    solved: Vec<Solved>,
    /// Elements that were computed.
    element: u64,
    /// Scales of its rows, if they are quantised.
    scales: Vec<f32>,
}

impl<S: ByteSource + Clone + 'static> ShardMerge<S> {
    pub(super) fn new(inner: Rc<Inner<S>>, shard: usize, range: Option<Range<u64>>) -> ShardMerge<S> {
        let length = inner.plan.shards.get(shard).map_or(0, |shard| shard.header.file_bytes());
        let range = range.unwrap_or(0..length);
        let end = range.end.min(length);
        let data_start = inner.plan.shards.get(shard).map_or(0, |shard| shard.header.data_start);
        let ahead = Ahead::new(inner.clone(), shard, end.saturating_sub(data_start));
        ShardMerge { inner, shard, at: range.start.min(end), end, running: None, ahead }
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
            self.ahead.clear();
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
        let mut running = match self.running.take() {
            Some(running) if running.info == *info => running,
            _ => self.start(inner, shard, position).await?,
        };
        let offset = self.at - shard.header.data_start;
        let size = info.dtype.size_bytes();
        loop {
            let first = info.begin + running.element * size;
            let is_busy = self.ahead.is_busy();
            let next = async {
                if is_busy {
                    inner.turn().await;
                }
                running.next(inner).await
            };
            let bytes = self.ahead.beside(next).await?;
            if bytes.is_empty() || first + bytes.len() as u64 > offset {
                if running.element < info.elements() {
                    self.running = Some(running);
                } else if let Evaluator::Cpu(evaluation) = running.evaluation {
                    self.ahead.done(*evaluation);
                }
                return Ok((bytes, first));
            }
        }
    }

    /// Begins with the tensor at that position.
    async fn start(
        &mut self,
        inner: &Rc<Inner<S>>,
        shard: &PlannedShard,
        position: usize,
    ) -> Result<Running<S>, SourceError> {
        let Some(info) = shard.header.tensors.get(position) else { return Err(SourceError::Aborted) };
        let wrap = |error| wrap(&info.name, error);
        let mut evaluation = match self.ahead.take(position).await {
            Some(fetched) => fetched.map_err(wrap)?,
            None => {
                let end = self.end - shard.header.data_start;
                let run = |parent| feed::run(inner, shard, position, end, parent);
                let open = std::mem::take(&mut self.ahead.feeds);
                let mut feeds = Feeds { open, next: &mut self.ahead.feeds, run: &run };
                match Running::open(inner, info, &mut feeds).await? {
                    Opening::Gpu(running) => return Ok(*running),
                    Opening::Cpu(mut evaluation) => {
                        evaluation.gather().await.map_err(wrap)?;
                        self.ahead.going_on_behind(position, &mut evaluation);
                        evaluation
                    }
                }
            }
        };
        let busy = self.ahead.is_busy().then(|| inner.parents.first()).flatten().map(|parent| &parent.source);
        let prepared = evaluation.prepare(inner.options.chunk_elements.max(1), busy);
        let solved = self.ahead.beside(prepared).await.map_err(wrap)?;
        let plan = evaluation.plan().clone();
        Ok(Running::new(info, &plan, Evaluator::Cpu(evaluation), solved))
    }
}

/// Where a tensor goes.
enum Opening<S: ByteSource> {
    Cpu(Box<Evaluation<S>>),
    Gpu(Box<Running<S>>),
}

impl<S: ByteSource + Clone + 'static> Running<S> {
    fn new(
        info: &TensorInfo,
        plan: &Rc<TensorPlan>,
        evaluation: Evaluator<S>,
        solved: Vec<Solved>,
    ) -> Running<S> {
        let (info, plan) = (info.clone(), plan.clone());
        Running { info, plan, evaluation, solved, element: 0, scales: Vec::new() }
    }

    /// Merges a tensor on the GPU, or opens its leaves.
    async fn open(
        inner: &Inner<S>,
        info: &TensorInfo,
        feeds: &mut Feeds<'_, S>,
    ) -> Result<Opening<S>, SourceError> {
        let wrap = |error| wrap(&info.name, error);
        let unknown = || wrap(CheckpointError::UnknownTensor { tensor: info.name.clone() });
        let plan = inner.tensors.get(&info.name).ok_or_else(unknown)?;
        if let Some((result, solved)) = on_gpu(inner, plan, feeds).await.map_err(wrap)? {
            return Ok(Opening::Gpu(Box::new(Running::new(info, plan, Evaluator::Gpu(result), solved))));
        }
        let kept = inner.options.kept_bytes;
        let opened = Evaluation::open(plan.clone(), &inner.parents, kept, &inner.cancelled, feeds).await;
        Ok(Opening::Cpu(Box::new(opened.map_err(wrap)?)))
    }

    /// Opens a tensor's leaves, by itself, and takes its sums.
    async fn start(inner: &Inner<S>, info: &TensorInfo) -> Result<Running<S>, SourceError> {
        let mut feeds = Feeds { open: Vec::new(), next: &mut Vec::new(), run: &|_| 1 };
        let mut evaluation = match Running::open(inner, info, &mut feeds).await? {
            Opening::Gpu(running) => return Ok(*running),
            Opening::Cpu(evaluation) => evaluation,
        };
        let prepared = evaluation.prepare(inner.options.chunk_elements.max(1), None).await;
        let solved = prepared.map_err(|error| wrap(&info.name, error))?;
        let plan = evaluation.plan().clone();
        Ok(Running::new(info, &plan, Evaluator::Cpu(evaluation), solved))
    }

    /// Elements to compute next.
    fn count(&self, inner: &Inner<S>) -> u64 {
        let left = self.info.elements().saturating_sub(self.element);
        let count = match self.evaluation {
            Evaluator::Cpu(ref evaluation) => evaluation.chunk(inner.options.chunk_elements) as u64,
            // Each readback is a round trip.
            Evaluator::Gpu(_) => PIECE_ELEMENTS as u64,
        };
        // Whole rows, where each has a scale of its own.
        let cols = if self.info.dtype.is_f8() { self.cols() } else { 1 };
        left.min((count / cols).max(1) * cols)
    }

    fn cols(&self) -> u64 {
        self.info.shape.last().copied().unwrap_or(1).max(1)
    }

    /// Computes the tensor anew on the CPU, up to where the GPU failed: its sums are known, and the same
    /// factors give the same bits.
    async fn leave_gpu(&mut self, inner: &Inner<S>, error: Option<GpuError>) -> Result<(), CheckpointError> {
        if let Some(error) = error {
            inner.gpu_failed(&self.plan, &error);
        }
        let mut feeds = Feeds { open: Vec::new(), next: &mut Vec::new(), run: &|_| 1 };
        let (plan, kept) = (self.plan.clone(), inner.options.kept_bytes);
        let opened = Evaluation::open(plan, &inner.parents, kept, &inner.cancelled, &mut feeds);
        let mut evaluation = opened.await?;
        evaluation.resume(&self.solved, self.element, inner.options.chunk_elements.max(1)).await?;
        self.evaluation = Evaluator::Cpu(Box::new(evaluation));
        Ok(())
    }

    async fn next(&mut self, inner: &Inner<S>) -> Result<Vec<u8>, SourceError> {
        let tensor = self.info.name.clone();
        let wrap = |error| wrap(&tensor, error);
        let mut count = self.count(inner);
        if let Evaluator::Gpu(result) = &mut self.evaluation {
            // Lost with an earlier tensor, there is none.
            let failed = match inner.gpu.take() {
                None => Some(None),
                Some(gpu) => {
                    let read = result.next(&gpu, count as usize).await;
                    inner.gpu.set(Some(gpu));
                    read.err().map(Some)
                }
            };
            if let Some(error) = failed {
                self.leave_gpu(inner, error).await.map_err(wrap)?;
                count = self.count(inner);
            }
        }
        let (mut bytes, dtype) = (Vec::new(), self.info.dtype);
        if let Evaluator::Cpu(evaluation) = &mut self.evaluation
            && evaluation.next_stored(dtype, count as usize, &mut bytes).await.map_err(wrap)?
        {
            self.check(&bytes)?;
            self.done(inner, count);
            return Ok(bytes);
        }
        let (cols, first_row) = (self.cols() as usize, self.scales.len() as u64);
        let Chunk { values, wide, stored } = match &mut self.evaluation {
            Evaluator::Gpu(result) => Chunk { values: result.values(), wide: None, stored: None },
            Evaluator::Cpu(evaluation) => evaluation.next(count as usize).await.map_err(wrap)?,
        };
        if let Some(leaf) = stored.filter(|_| dtype.is_f8()) {
            bytes.extend_from_slice(leaf.last_stored());
            self.scales.extend(leaf.row_scales(first_row..first_row + (bytes.len() / cols) as u64));
        } else if dtype.is_f8() {
            bytes.resize(values.len(), 0);
            for (row, codes) in values.chunks_exact(cols).zip(bytes.chunks_exact_mut(cols)) {
                let scale = quantize_row_e4m3(row, codes).map_err(|_| overflow(&self.info, self.element))?;
                self.scales.push(scale);
            }
        } else if let Some(values) = wide.filter(|_| dtype == Dtype::F64) {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                return Err(overflow(&self.info, self.element + index as u64));
            }
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        } else {
            narrow(dtype, values, &mut bytes).map_err(|error| wrap(self.failed(error)))?;
            self.check(&bytes)?;
        }
        self.done(inner, count);
        Ok(bytes)
    }

    /// Refuses a result that overflowed its precision.
    fn check(&self, bytes: &[u8]) -> Result<(), SourceError> {
        let found = find_non_finite(self.info.dtype, bytes);
        match found.map_err(|error| wrap(&self.info.name, self.failed(error)))? {
            None => Ok(()),
            Some(index) => Err(overflow(&self.info, self.element + index as u64)),
        }
    }

    fn failed(&self, source: DtypeError) -> CheckpointError {
        CheckpointError::Values { file: "the result".into(), tensor: self.info.name.clone(), source }
    }

    /// Counts computed elements; with the last of them, keeps what is known now.
    fn done(&mut self, inner: &Inner<S>, count: u64) {
        self.element += count;
        if self.element < self.info.elements() {
            return;
        }
        if self.info.dtype.is_f8() {
            inner.scales.borrow_mut().insert(self.info.name.clone(), std::mem::take(&mut self.scales));
        }
        let (measured, path) = match &self.evaluation {
            Evaluator::Cpu(evaluation) => (evaluation.measured(), "cpu"),
            Evaluator::Gpu(_) => (Vec::new(), "gpu"),
        };
        inner.tell(&self.plan, &Computed { solved: &self.solved, measured: &measured, path });
    }
}

/// Row scales of a quantised tensor, which is computed once more if it was not before.
async fn scales<S: ByteSource + Clone + 'static>(
    inner: &Rc<Inner<S>>,
    weight: &str,
) -> Result<Vec<u8>, SourceError> {
    let known = |inner: &Inner<S>| {
        let scales = inner.scales.borrow();
        Some(scales.get(weight)?.iter().flat_map(|scale| scale.to_le_bytes()).collect::<Vec<u8>>())
    };
    if let Some(bytes) = known(inner) {
        return Ok(bytes);
    }
    if let Some(info) = inner.info(weight) {
        let mut running = Running::start(inner, info).await?;
        while running.element < info.elements() {
            running.next(inner).await?;
        }
    }
    Ok(known(inner).unwrap_or_default())
}

/// Merges a tensor on the GPU, if there is one and it can; on any fault of the device the CPU does.
async fn on_gpu<S: ByteSource + Clone>(
    inner: &Inner<S>,
    plan: &Rc<TensorPlan>,
    feeds: &mut Feeds<'_, S>,
) -> Result<Option<(OnGpu, Vec<Solved>)>, CheckpointError> {
    let Some(dtype) = precision(plan).filter(|_| plan.elements() < inner.gpu_room.get()) else {
        return Ok(None);
    };
    let Some(mut gpu) = inner.gpu.take() else { return Ok(None) };
    let merged = OnGpu::merge(&mut gpu, plan, dtype, &inner.parents, &inner.cancelled, feeds).await;
    inner.gpu.set(Some(gpu));
    match merged {
        Ok(merged) => Ok(Some(merged)),
        Err(Failure::Gpu(error)) => {
            inner.gpu_failed(plan, &error);
            Ok(None)
        }
        Err(Failure::Checkpoint(error)) => Err(error),
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
