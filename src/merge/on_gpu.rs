//! One output tensor on the GPU: its leaves are read once and stay there until the result is done.

use std::rc::Rc;

use super::evaluate::Solved;
use super::feed::Feeds;
use super::leaf::{Cancelled, Fetch, LeafReader};
use super::parent::Parent;
use super::slerp::{Sums, coefficients};
use super::tensor::{Leaf, Node, Operation, TensorPlan};
use crate::checkpoint::{ByteSource, CheckpointError};
use crate::dtype::{Dtype, narrow, round_through, widen};
use crate::gpu::{GpuError, Resident};
use crate::kernels::merge::SlerpGpu;

/// Leaves and results of one tensor that may lie on the device together, bytes.
const RESIDENT_LIMIT_BYTES: u64 = 2 << 30;

/// A tensor that fewer elements has is merged sooner than its results could be read back.
const LEAST_ELEMENTS: u64 = 1 << 16;

/// Leaves are read one after the other, and only once.
const ONCE: Fetch = Fetch { keep: 0, windows: false };

/// Elements that go to or from the device together.
pub(super) const PIECE_ELEMENTS: usize = 2 << 20;

/// Why a tensor could not be merged on the device.
pub(super) enum Failure {
    /// The device; the CPU can still do it.
    Gpu(GpuError),
    /// The parents, or the caller's wish to stop.
    Checkpoint(CheckpointError),
}

impl From<GpuError> for Failure {
    fn from(error: GpuError) -> Failure {
        Failure::Gpu(error)
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Failure {
        Failure::Checkpoint(error)
    }
}

/// A merged tensor on the device.
pub(super) struct OnGpu {
    result: Resident,
    /// Roundings that are left to the host.
    rounds: Vec<Dtype>,
    element: u64,
    values: Vec<f32>,
}

/// The precision in which a tensor can be merged on the device: every step is a SLERP in that
/// precision, and all of it fits. `None`: it goes to the CPU.
pub(super) fn precision(plan: &TensorPlan) -> Option<Dtype> {
    let steps = || plan.nodes.iter().filter(|node| !matches!(node.operation, Operation::Leaf(_)));
    let dtype = steps().next()?.cast?;
    let last = plan.nodes.len().saturating_sub(1);
    let fits = |(index, node): (usize, &Node)| match node.operation {
        Operation::Leaf(_) => true,
        Operation::Linear(_) => false,
        Operation::Slerp(_) => {
            let rounded = node.rounds.first() == Some(&dtype);
            node.cast == Some(dtype) && rounded && (index == last || node.rounds.len() == 1)
        }
    };
    let bytes = plan.elements().checked_mul(dtype.size_bytes())?.checked_mul(plan.nodes.len() as u64)?;
    let mergeable = matches!(dtype, Dtype::Bf16 | Dtype::F16 | Dtype::F32);
    let all = plan.nodes.iter().enumerate().all(fits);
    let worth_it = plan.elements() >= LEAST_ELEMENTS && bytes <= RESIDENT_LIMIT_BYTES;
    (mergeable && all && worth_it).then_some(dtype)
}

impl OnGpu {
    /// Merges a tensor whose [`precision`] is `dtype`.
    pub(super) async fn merge<S: ByteSource + Clone>(
        gpu: &mut SlerpGpu,
        plan: &Rc<TensorPlan>,
        dtype: Dtype,
        parents: &[Parent<S>],
        cancelled: &Cancelled,
        feeds: &mut Feeds<'_, S>,
    ) -> Result<(OnGpu, Vec<Solved>), Failure> {
        let mut tensors: Vec<Option<Resident>> = Vec::new();
        let mut solved = Vec::new();
        for (index, node) in plan.nodes.iter().enumerate() {
            let tensor = match &node.operation {
                Operation::Leaf(leaf) => match plan.leaves.get(*leaf) {
                    Some(leaf) => Some(load(gpu, plan, leaf, dtype, parents, cancelled, feeds).await?),
                    None => None,
                },
                Operation::Slerp(t) => {
                    let operand = |i: usize| tensors.get(*node.operands.get(i)?)?.as_ref();
                    let (Some(a), Some(b)) = (operand(0), operand(1)) else { continue };
                    let sums = match gpu.sums(a, b).await? {
                        Some(sums) => sums,
                        None => sums_on_host(gpu, a, b).await?,
                    };
                    let coefficients = coefficients(sums, *t);
                    solved.push(Solved { node: index, sums, coefficients });
                    let factors = coefficients.factors.map(|factor| factor as f32);
                    Some(gpu.blend(a, b, factors, dtype).await?.tensor)
                }
                Operation::Linear(_) => None,
            };
            tensors.push(tensor);
            // What no later step needs makes room.
            for (earlier, tensor) in tensors.iter_mut().enumerate().take(index) {
                let later = plan.nodes.get(index + 1..).unwrap_or_default();
                if !later.iter().any(|node| node.operands.contains(&earlier)) {
                    *tensor = None;
                }
            }
        }
        let rounds = plan.nodes.last().and_then(|node| node.rounds.get(1..)).unwrap_or_default().to_vec();
        let missing = || GpuError::Shape { label: plan.name.clone(), detail: "nothing to merge".to_owned() };
        let result = tensors.pop().flatten().ok_or_else(missing)?;
        Ok((OnGpu { result, rounds, element: 0, values: Vec::new() }, solved))
    }

    /// Reads the result's next `count` elements back.
    pub(super) async fn next(&mut self, gpu: &SlerpGpu, count: usize) -> Result<(), GpuError> {
        let bytes = gpu.read(&self.result, self.element..self.element + count as u64).await?;
        self.element += count as u64;
        self.values.clear();
        // Of a dtype that shaders merge, and whole elements: this cannot fail.
        let _ = widen(self.result.dtype(), &bytes, &mut self.values);
        self.rounds.iter().for_each(|dtype| round_through(*dtype, &mut self.values));
        Ok(())
    }

    /// What was read back last.
    pub(super) fn values(&self) -> &[f32] {
        &self.values
    }
}

/// Streams a parent's tensor to the device.
async fn load<S: ByteSource + Clone>(
    gpu: &mut SlerpGpu,
    plan: &TensorPlan,
    leaf: &Leaf,
    dtype: Dtype,
    parents: &[Parent<S>],
    cancelled: &Cancelled,
    feeds: &mut Feeds<'_, S>,
) -> Result<Resident, Failure> {
    let mut reader = LeafReader::open(parents, leaf, ONCE, cancelled.clone(), feeds).await?;
    let mut resident = gpu.tensor(&leaf.tensor, dtype, plan.elements()).await?;
    reader.rewind().await?;
    let (mut element, mut values, mut bytes) = (0, Vec::new(), Vec::new());
    while element < plan.elements() {
        let count = (plan.elements() - element).min(PIECE_ELEMENTS as u64);
        reader.read(count as usize, &mut values).await?;
        bytes.clear();
        let failed = |source| CheckpointError::Values {
            file: "the merge".to_owned(),
            tensor: leaf.tensor.clone(),
            source,
        };
        narrow(dtype, &values, &mut bytes).map_err(failed)?;
        gpu.write(&mut resident, element, &bytes).await?;
        element += count;
    }
    feeds.next.extend(reader.into_feed());
    Ok(resident)
}

/// The sums of two tensors on the device, taken on the CPU: for adapters and values with which the
/// kernel is not exact.
async fn sums_on_host(gpu: &SlerpGpu, a: &Resident, b: &Resident) -> Result<[f64; 3], GpuError> {
    let mut sums = Sums::default();
    let mut element = 0;
    while element < a.elements() {
        let end = a.elements().min(element + PIECE_ELEMENTS as u64);
        let mut chunks = [Vec::new(), Vec::new()];
        for (tensor, values) in [a, b].into_iter().zip(&mut chunks) {
            let bytes = gpu.read(tensor, element..end).await?;
            // Of a dtype that shaders merge, and whole elements: this cannot fail.
            let _ = widen(tensor.dtype(), &bytes, values);
        }
        let [a, b] = &chunks;
        sums.add(a, b);
        element = end;
    }
    Ok(sums.totals())
}
