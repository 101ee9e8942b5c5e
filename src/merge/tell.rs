//! What a merge tells about itself: a report per tensor, and what went wrong without ending it.

use super::evaluate::{Measured, Solved};
use super::merged::Inner;
use super::report::{Combination, SlerpReport, TensorReport};
use super::tensor::{Node, Operation, TensorPlan};
use crate::checkpoint::TensorInfo;
use crate::gpu::GpuError;

/// What a tensor's computation found.
pub(super) struct Computed<'a> {
    pub(super) solved: &'a [Solved],
    pub(super) measured: &'a [Measured],
    pub(super) path: &'static str,
}

impl<S> Inner<S> {
    pub(super) fn info(&self, tensor: &str) -> Option<&TensorInfo> {
        self.plan.tensors().find(|info| info.name == tensor)
    }

    /// Says that the device failed with a tensor, which the CPU takes over. A device without room gets no
    /// other tensor of that size; one that failed otherwise gets none at all.
    pub(super) fn gpu_failed(&self, plan: &TensorPlan, error: &GpuError) {
        let (what, then) = match error {
            GpuError::OutOfMemory { bytes, .. } => {
                (format!("the GPU has no room for it ({bytes} bytes more)"), "it was")
            }
            GpuError::TooLarge { .. } => (error.to_string(), "it was"),
            GpuError::Lost { detail } => {
                (format!("the GPU was lost ({detail})"), "it and all that follow were")
            }
            other => (other.to_string(), "it and all that follow were"),
        };
        match error {
            GpuError::OutOfMemory { .. } | GpuError::TooLarge { .. } => {
                self.gpu_room.set(self.gpu_room.get().min(plan.elements()));
            }
            _ => drop(self.gpu.take()),
        }
        let warning = format!("{}: {what}; {then} merged on the CPU", plan.name);
        self.report.borrow_mut().warnings.push(warning);
    }

    /// Adds what was found about a tensor to the report.
    pub(super) fn tell(&self, plan: &TensorPlan, computed: &Computed<'_>) {
        let several = self.recipe.documents.len() > 1;
        let mut on_tensor = self.on_tensor.take();
        for (index, node) in plan.nodes.iter().enumerate() {
            let Some((document, tensor)) = &node.origin else { continue };
            let Some(found) = found(index, node, computed) else { continue };
            let named = self.recipe.documents.get(*document);
            let name = named.map(|d| d.name.clone().unwrap_or_else(|| (document + 1).to_string()));
            let report = TensorReport {
                tensor: tensor.clone(),
                document: name.filter(|_| several),
                shape: plan.shape.clone(),
                method: found.method,
                sources: node.operands.iter().map(|&operand| self.describe(plan, operand)).collect(),
                coefficients: found.coefficients,
                norms: found.norms,
                distances: found.distances,
                path: computed.path,
                slerp: found.slerp,
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

/// What is to be reported of one node.
struct Found {
    method: Combination,
    coefficients: Vec<f64>,
    norms: Vec<f64>,
    distances: Vec<f64>,
    slerp: Option<SlerpReport>,
}

fn found(index: usize, node: &Node, computed: &Computed<'_>) -> Option<Found> {
    match &node.operation {
        Operation::Leaf(_) => None,
        Operation::Slerp(t) => {
            let Solved { coefficients, sums, .. } =
                computed.solved.iter().find(|solved| solved.node == index)?;
            Some(Found {
                method: Combination::Slerp,
                coefficients: coefficients.factors.to_vec(),
                norms: coefficients.norms.to_vec(),
                distances: coefficients.distances(*sums).to_vec(),
                slerp: Some(SlerpReport { t: *t, dot: coefficients.dot, branch: coefficients.branch }),
            })
        }
        Operation::Linear(factors) => {
            let measured = computed.measured.iter().find(|measured| measured.node == index);
            let (norms, distances) = measured
                .map(|measured| (measured.norms.clone(), measured.distances.clone()))
                .unwrap_or_default();
            let method = if factors.len() == 1 { Combination::Passthrough } else { Combination::Linear };
            Some(Found { method, coefficients: factors.clone(), norms, distances, slerp: None })
        }
    }
}
