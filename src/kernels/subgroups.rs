//! The start-up test of exchange within subgroups. See subgroups.wgsl.

use crate::gpu::{Binding, Gpu, GpuError, Kernel, Kernels, Pipeline};

use super::sizes::{Sizes, Threads};
use super::trial;

/// Group 0, in order.
pub const BINDINGS: &[Binding] = &[Binding::read("values"), Binding::write("found")];

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

/// A kernel for each size of workgroup in use, with as many neighbours as there are in smaller ones.
fn trials(gpu: &Gpu, kernels: &mut Kernels, fold: u32) -> Vec<(u32, u32, Pipeline)> {
    let mut workgroups: Vec<u32> =
        Threads::candidates(Sizes::of(gpu.tier())).iter().map(|threads| threads.workgroup).collect();
    workgroups.sort_unstable();
    workgroups.dedup();
    workgroups
        .into_iter()
        .map(|workgroup| (workgroup, fold.clamp(1, workgroup)))
        .map(|(workgroup, fold)| (workgroup, fold, kernels.start(gpu, kernel(workgroup, fold))))
        .collect()
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
        // What the device has to say of it is heard here, and by nobody else: nothing else is under way.
        Ok(false) | Err(_) => match gpu.idle().await {
            Err(lost @ GpuError::Lost { .. }) => Err(lost),
            _ => Ok(0),
        },
    }
}

/// Whether so many neighbours exchange what they should on this device, in every size of workgroup in use; as many
/// as there are in smaller workgroups.
///
/// # Errors
/// What the compiler or the device says.
pub async fn holds(gpu: &Gpu, kernels: &mut Kernels, fold: u32) -> Result<bool, GpuError> {
    let trials = trials(gpu, kernels, fold);
    let pipelines: Vec<Pipeline> = trials.iter().map(|(_, _, pipeline)| *pipeline).collect();
    let mut refused = None;
    for pipeline in &pipelines {
        // All of them, so that none is left to be waited for, or heard of, later.
        let ended = kernels.wait(&[*pipeline], &mut |_, _| ()).await;
        refused = match refused {
            Some(lost @ GpuError::Lost { .. }) => Some(lost),
            earlier => ended.err().or(earlier),
        };
    }
    refused.map_or(Ok(()), Err)?;
    for (workgroup, fold, pipeline) in trials {
        // Sums of different threads are different ones, and none is rounded.
        let values: Vec<f32> = (0..workgroup).map(|thread| (thread * thread + 1) as f32).collect();
        let words = workgroup * (1 + fold.ilog2());
        let found = trial::output(gpu, kernels, pipeline, bytemuck::cast_slice(&values), words, 1).await?;
        if !are_neighbours(fold, &values, &found) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether `found` is what the kernel finds where `fold` neighbours in a workgroup are neighbours in a subgroup, in
/// the same order.
pub fn are_neighbours(fold: u32, values: &[f32], found: &[f32]) -> bool {
    let sums = values.chunks(fold.max(1) as usize);
    let sums = sums.flat_map(|chunk| chunk.iter().map(move |_| Some(chunk.iter().sum::<f32>())));
    let steps = (0..fold.max(1).ilog2()).map(|step| 1_usize << step);
    let others =
        steps.flat_map(|step| (0..values.len()).map(move |thread| values.get(thread ^ step).copied()));
    found.iter().map(|value| Some(*value)).eq(sums.chain(others))
}
