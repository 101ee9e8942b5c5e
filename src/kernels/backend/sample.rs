//! Choosing tokens on the device, several passes under way.

use std::collections::VecDeque;

use super::{Bound, Dispatch, Stage, StepKey, WebGpu};
use crate::gpu::{Arriving, Gpu, GpuBuffer, GpuError, Purpose, buffer_bytes};
use crate::kernels::sample_adjust::{self, Choice};
use crate::kernels::sample_pick::{self, CHOSEN_WORDS};
use crate::kernels::{PITCH, Sizes};
use crate::steps::sampling::{Past, Rules, Sampled, powers};
use crate::steps::{DecoderShape, Slot};

/// Buffers of the choice, and the choices on their way to the host.
pub(super) struct Sampling {
    choice: GpuBuffer,
    bias: GpuBuffer,
    history: GpuBuffer,
    keys: GpuBuffer,
    bests: GpuBuffer,
    powers: GpuBuffer,
    chosen: GpuBuffer,
    rules: Rules,
    arriving: VecDeque<Arriving>,
    spare: Vec<GpuBuffer>,
}

/// Words of bias, history, keys, bests and powers.
fn words(shape: &DecoderShape) -> [u64; 5] {
    let vocab = u64::from(shape.vocab);
    let groups = u64::from(sample_adjust::grid(shape.vocab)[0]);
    [vocab, vocab, vocab.next_multiple_of(u64::from(PITCH)), groups * 4, 256]
}

/// Bytes of the buffers, but for some of 16 to 80 bytes each.
pub(super) fn memory(shape: &DecoderShape) -> u64 {
    words(shape).into_iter().map(|words| buffer_bytes(words * 4)).sum()
}

impl Sampling {
    /// Allocates them, zeroed.
    pub(super) fn allocate(gpu: &Gpu, shape: &DecoderShape) -> Result<Sampling, GpuError> {
        let buffer = |label: &str, words: u64, usage: wgpu::BufferUsages| {
            gpu.buffer(label, words * 4, usage | wgpu::BufferUsages::COPY_DST, Purpose::Activations)
        };
        let storage = wgpu::BufferUsages::STORAGE;
        let [bias, history, keys, bests, power_words] = words(shape);
        let made = Sampling {
            choice: buffer("choice", (size_of::<Choice>() / 4) as u64, wgpu::BufferUsages::UNIFORM)?,
            bias: buffer("bias", bias, storage)?,
            history: buffer("history", history, storage)?,
            keys: buffer("keys", keys, storage)?,
            bests: buffer("bests", bests, storage)?,
            powers: buffer("powers", power_words, storage)?,
            chosen: buffer("chosen", u64::from(CHOSEN_WORDS), storage | wgpu::BufferUsages::COPY_SRC)?,
            rules: Rules::default(),
            arriving: VecDeque::new(),
            spare: Vec::new(),
        };
        gpu.queue().write_buffer(made.powers.raw(), 0, bytemuck::cast_slice(&powers()));
        Ok(made)
    }
}

impl WebGpu {
    /// Uploads what a request's choices depend on; returns how many passes to have under way.
    pub(super) fn prepare_sampling(
        &mut self,
        rules: &Rules,
        bias: &[(u32, f32)],
        past: Past,
    ) -> Result<usize, GpuError> {
        let sampling = &mut self.sampling;
        sampling.rules = *rules;
        // Of a request whose future was dropped half-way.
        sampling.arriving.clear();
        let vocab = self.shape.vocab as usize;
        let queue = self.gpu.queue();
        if rules.bias == 1 {
            let mut dense = vec![0.0f32; vocab];
            for &(id, added) in bias {
                dense.get_mut(id as usize).into_iter().for_each(|sum| *sum += added);
            }
            queue.write_buffer(sampling.bias.raw(), 0, bytemuck::cast_slice(&dense));
        }
        if rules.penalties == 1 {
            let mut seen = vec![0u32; vocab];
            for &id in past.prompt.iter().chain(past.output) {
                seen.get_mut(id as usize).into_iter().for_each(|seen| *seen = 1);
            }
            for &id in past.output {
                seen.get_mut(id as usize).into_iter().for_each(|seen| *seen += 2);
            }
            queue.write_buffer(sampling.history.raw(), 0, bytemuck::cast_slice(&seen));
        }
        // While the host looks at one token, a GPU has the next to do, and one more lest it wait for the
        // way there. A CPU that plays a GPU waits for nobody, and what is computed past the end costs it more.
        Ok(if self.sizes == Sizes::Gpu { 3 } else { 2 })
    }

    /// Records the choice from the pass's logits.
    pub(super) fn record_choice(&mut self, draw: u64) -> Result<(), GpuError> {
        let vocab = self.shape.vocab;
        self.choosing = self.planning.then_some(Stage::Best);
        if !self.planning {
            let choice = Choice::new(&self.sampling.rules, vocab, draw);
            self.gpu.queue().write_buffer(self.sampling.choice.raw(), 0, bytemuck::bytes_of(&choice));
        }
        let bind = |this: &mut Self| {
            let kernel = sample_adjust::kernel(this.sizes);
            let Some(pipeline) = this.pipeline("sample_adjust", Some(kernel))? else { return Ok(None) };
            let s = &this.sampling;
            let buffers = [&s.choice, this.slot(Slot::Logits)?, &s.bias, &s.history, &s.keys, &s.bests];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::SampleAdjust, bind, [sample_adjust::grid(vocab)])?;
        // Planned are both.
        for greedy in [true, false] {
            if self.planning || greedy == (self.sampling.rules.greedy == 1) {
                self.choosing = self.planning.then_some(if greedy { Stage::Best } else { Stage::Draw });
                self.record_pick(greedy)?;
            }
        }
        Ok(())
    }

    fn record_pick(&mut self, greedy: bool) -> Result<(), GpuError> {
        let bind = |this: &mut Self| {
            let kernel = sample_pick::kernel(this.sizes, greedy);
            let Some(pipeline) = this.pipeline("sample_pick", Some(kernel))? else { return Ok(None) };
            let s = &this.sampling;
            let buffers =
                [&s.choice, &s.powers, &s.keys, &s.bests, &s.history, &this.activations.ids, &s.chosen];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::SamplePick { greedy }, bind, [[1, 1, 1]])
    }

    /// Submits the pass with its choice, and sends that on its way.
    pub(super) fn submit_choice(&mut self) -> Result<(), GpuError> {
        let pass_list: Vec<Dispatch> = std::mem::take(&mut self.pass);
        if self.planning {
            return Ok(());
        }
        let mut encoder = self.encode(&pass_list)?;
        let bytes = u64::from(CHOSEN_WORDS) * 4;
        let staging = match self.sampling.spare.pop() {
            Some(staging) => staging,
            None => {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                self.gpu.buffer("choice readback", bytes, usage, Purpose::Activations)?
            }
        };
        encoder.copy_buffer_to_buffer(self.sampling.chosen.raw(), 0, staging.raw(), 0, bytes);
        let submission = self.gpu.submit(Some(encoder.finish()));
        self.sampling.arriving.push_back(Arriving::new(staging, CHOSEN_WORDS, submission));
        self.latest = pass_list;
        Ok(())
    }

    /// Waits for the oldest choice under way.
    pub(super) async fn next_choice(&mut self) -> Result<Option<Sampled>, GpuError> {
        let Some(arriving) = self.sampling.arriving.pop_front() else { return Ok(None) };
        let (words, staging) = match arriving.take(&self.gpu).await {
            Ok(arrived) => arrived,
            Err(error) => {
                self.sampling.arriving.clear();
                if matches!(error, GpuError::Lost { .. }) {
                    return Err(error);
                }
                self.forget();
                // What only follows from the failure may come later, and is no news to the next pass.
                return match self.gpu.idle().await {
                    Err(lost @ GpuError::Lost { .. }) => Err(lost),
                    _ => Err(error),
                };
            }
        };
        self.sampling.spare.push(staging);
        let &[id, bad, bits, ..] = words.as_slice() else { return Ok(None) };
        let not_finite = (bad != u32::MAX).then(|| (bad, f32::from_bits(bits)));
        Ok(Some(Sampled { id, not_finite }))
    }
}
