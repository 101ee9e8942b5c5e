//! What a token is made of and how long each kernel takes, by timestamps. For the bench.

use web_time::Instant;

use super::{Dispatch, WebGpu};
use crate::gpu::{GpuError, Purpose, read_buffer};

/// Dispatches between two readbacks at most: a set of queries holds 4096.
const MOST: usize = 2048;
/// How often a token is computed at least.
const LEAST_TIMES: usize = 3;
/// How often at most, where stamps are fine.
const ENOUGH: usize = 16;
/// Stamps in finer steps than this need no averaging.
const FINE_MS: f64 = 0.001;

/// What the dispatches of one kernel come to.
pub struct KernelTime {
    /// The kernel.
    pub name: &'static str,
    /// Its dispatches for a token.
    pub dispatches: u64,
    /// Milliseconds that all of them take, one sample for each time the token was computed; none where the
    /// device has no timestamps.
    pub samples: Vec<f64>,
}

/// A token by kernel, in the order in which they first run.
pub struct Profile {
    /// Its kernels.
    pub kernels: Vec<KernelTime>,
    /// The step in which timestamps come, milliseconds: browsers round them.
    pub step_ms: f64,
}

impl WebGpu {
    /// Computes the token that was last chosen here again and again, every dispatch between timestamps and in a pass
    /// of its own: a few times, and where stamps are rounded until `budget_ms` have gone by. What the cache and the
    /// activations hold is of no use afterwards.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn profile(&mut self, budget_ms: f64) -> Result<Profile, GpuError> {
        let mut profile = Profile { kernels: Vec::new(), step_ms: 0.0 };
        let mut places = Vec::new();
        for dispatch in &self.latest {
            let name = self.kernel_of(dispatch);
            let known = profile.kernels.iter().position(|kernel| kernel.name == name);
            places.push(known.unwrap_or(profile.kernels.len()));
            match known.and_then(|at| profile.kernels.get_mut(at)) {
                Some(kernel) => kernel.dispatches += 1,
                None => profile.kernels.push(KernelTime { name, dispatches: 1, samples: Vec::new() }),
            }
        }
        if !self.gpu.tier().timestamps {
            return Ok(profile);
        }
        let queries = self.gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("profile"),
            ty: wgpu::QueryType::Timestamp,
            count: 2 * MOST as u32,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let mapped = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let bytes = 2 * MOST as u64 * 8;
        let resolved = self.gpu.buffer("timestamps", bytes, usage, Purpose::Activations)?;
        let staging = self.gpu.buffer("timestamp readback", bytes, mapped, Purpose::Activations)?;
        let ms_per_tick = f64::from(self.gpu.queue().get_timestamp_period()) / 1e6;
        let (mut first, mut step) = (None, 0);
        let started = Instant::now();
        for time in 0_usize.. {
            let is_over = started.elapsed().as_secs_f64() * 1e3 > budget_ms;
            if time >= LEAST_TIMES && (is_over || time >= ENOUGH && profile.step_ms < FINE_MS) {
                break;
            }
            let mut sums = vec![0.0; profile.kernels.len()];
            for (dispatches, places) in self.latest.chunks(MOST).zip(places.chunks(MOST)) {
                let mut encoder =
                    self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                for (index, dispatch) in (0..).zip(dispatches) {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                        label: None,
                        timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                            query_set: &queries,
                            beginning_of_pass_write_index: Some(2 * index),
                            end_of_pass_write_index: Some(2 * index + 1),
                        }),
                    });
                    self.encode_one(&mut pass, dispatch)?;
                }
                let count = 2 * dispatches.len() as u32;
                encoder.resolve_query_set(&queries, 0..count, resolved.raw(), 0);
                encoder.copy_buffer_to_buffer(resolved.raw(), 0, staging.raw(), 0, u64::from(count) * 8);
                self.gpu.submit(Some(encoder.finish()));
                let words = read_buffer(&self.gpu, staging.raw(), 2 * count).await?;
                for (stamps, place) in words.chunks_exact(4).zip(places) {
                    let &[low, high, end_low, end_high] = stamps else { continue };
                    let stamp =
                        |low: f32, high: f32| u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32;
                    let (begin, end) = (stamp(low, high), stamp(end_low, end_high));
                    let origin = *first.get_or_insert(begin);
                    step = common_step(common_step(step, begin.abs_diff(origin)), end.abs_diff(origin));
                    let ms = end.saturating_sub(begin) as f64 * ms_per_tick;
                    sums.get_mut(*place).into_iter().for_each(|sum| *sum += ms);
                }
            }
            profile.kernels.iter_mut().zip(sums).for_each(|(kernel, sum)| kernel.samples.push(sum));
            profile.step_ms = step as f64 * ms_per_tick;
        }
        Ok(profile)
    }

    fn kernel_of(&self, dispatch: &Dispatch) -> &'static str {
        let bound = self.bound.get(&dispatch.key).and_then(|parts| parts.get(dispatch.part));
        bound.map_or("", |bound| self.kernels.name(bound.pipeline))
    }
}

/// The largest number that divides both; 0 divides by everything.
fn common_step(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common_step(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::common_step;

    #[test]
    fn the_step_of_stamps_is_what_divides_them_all() {
        let of = |stamps: &[u64]| stamps.iter().fold(0, |step, stamp| common_step(step, *stamp));
        assert_eq!(
            [&[][..], &[0, 0], &[300, 0, 700], &[65_536, 262_144], &[7, 9]].map(of),
            [0, 0, 100, 65_536, 1]
        );
    }
}
