//! The start-up test of exchange within subgroups. See subgroups.wgsl.

use crate::gpu::{Binding, Gpu, GpuError, Kernel, Kernels};

use super::sizes::{Sizes, Threads};
use super::trial;

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[Binding::read("values"), Binding::write("sums")];

/// The kernel for a workgroup, sums being of `fold` neighbours.
pub fn kernel(workgroup: u32, fold: u32) -> Kernel {
    let numbers = [("WG", workgroup), ("FOLD", fold)];
    Kernel {
        name: "subgroups",
        parts: vec![wgsl!("subgroups.wgsl")],
        constants: numbers.map(|(name, value)| (name, f64::from(value))).to_vec(),
        bindings: BINDINGS,
    }
}

/// Threads whose sums may meet by exchange within a subgroup: what the device says, if neighbours are found to
/// be neighbours there in every size of workgroup; else 0, as where there are no subgroups or no shader with them
/// compiles.
///
/// # Errors
/// [`GpuError::Lost`].
pub async fn choose(gpu: &Gpu, kernels: &mut Kernels) -> Result<u32, GpuError> {
    let fold = gpu.tier().subgroup;
    if fold == 0 {
        return Ok(0);
    }
    match holds(gpu, kernels, fold).await {
        Ok(true) => Ok(fold),
        Err(lost @ GpuError::Lost { .. }) => Err(lost),
        Ok(false) | Err(_) => Ok(0),
    }
}

/// Whether sums of so many neighbours are right on this device, in every size of workgroup in use.
///
/// # Errors
/// What the compiler or the device says.
pub async fn holds(gpu: &Gpu, kernels: &mut Kernels, fold: u32) -> Result<bool, GpuError> {
    let mut workgroups: Vec<u32> =
        Threads::candidates(Sizes::of(gpu.tier())).iter().map(|threads| threads.workgroup).collect();
    workgroups.sort_unstable();
    workgroups.dedup();
    workgroups.retain(|workgroup| workgroup.is_multiple_of(fold));
    let pipelines: Vec<_> =
        workgroups.iter().map(|workgroup| kernels.start(gpu, kernel(*workgroup, fold))).collect();
    for (workgroup, pipeline) in workgroups.iter().zip(pipelines) {
        // Sums of different threads are different ones, and none is rounded.
        let values: Vec<f32> = (0..*workgroup).map(|thread| (thread * thread + 1) as f32).collect();
        let got = trial::output(gpu, kernels, pipeline, bytemuck::cast_slice(&values), *workgroup, 1).await?;
        let wanted = values.chunks(fold as usize);
        let wanted = wanted.flat_map(|chunk| chunk.iter().map(move |_| chunk.iter().sum::<f32>()));
        if !got.iter().copied().eq(wanted) {
            return Ok(false);
        }
    }
    Ok(!workgroups.is_empty())
}
