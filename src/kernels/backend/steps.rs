//! The steps of a layer as dispatches of one compute pass.

use super::{Bound, Dispatch, Gain, GpuBufferRef, GpuVector, Stage, StepKey, WebGpu};
use crate::gpu::{GpuError, GpuMatrix, read_buffer};
use crate::kernels::attend::Tiling;
use crate::kernels::attend_one::OneTiling;
use crate::kernels::{
    BatchUniform, Choice, Sizes, attend_reduce, embed, matmul_gated, matvec_gated, rms_norm, rope_store,
    silu_mul,
};
use crate::steps::sampling::{Past, Rules, Sampled};
use crate::steps::{Batch, Slot, Steps, Write};

impl WebGpu {
    /// Adds one dispatch to a pass.
    pub(super) fn encode_one(
        &self,
        pass: &mut wgpu::ComputePass,
        dispatch: &Dispatch,
    ) -> Result<(), GpuError> {
        let bound = self.bound.get(&dispatch.key).and_then(|parts| parts.get(dispatch.part));
        let Some((raw, bound)) = bound.and_then(|b| Some((self.kernels.raw(b.pipeline)?, b))) else {
            let detail = "it was recorded without being bound".into();
            return Err(GpuError::Rejected { label: format!("{:?}", dispatch.key), detail });
        };
        pass.set_pipeline(raw);
        pass.set_bind_group(0, &bound.group, &[]);
        let [x, y, z] = dispatch.grid;
        pass.dispatch_workgroups(x, y, z);
        Ok(())
    }
}

impl Steps for WebGpu {
    fn plan(&mut self) {
        self.planning = true;
        // As the plan before may have left it, where it was not compiled.
        self.choosing = None;
        self.planned.clear();
        self.stages.clear();
        self.products.clear();
    }

    fn compile(&mut self) {
        self.planning = false;
        self.choosing = None;
        // An adapter that computes on the CPU compiles there as well: first what the first token waits for.
        self.start_stages(self.sizes == Sizes::Cpu);
    }

    async fn compiled(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), GpuError> {
        self.kernels.wait(&self.stage(Stage::Prompt), progress).await?;
        self.start_stages(false);
        self.gpu.check()
    }

    async fn decodable(&mut self) -> Result<(), GpuError> {
        let wanted = self.stage(Stage::Decode);
        self.kernels.wait(&wanted, &mut |_, _| ()).await
    }

    fn short(&mut self) -> u32 {
        self.ready_short()
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), GpuError> {
        self.open_pass(batch.ids.len() as u32, batch.position, batch.prompt)?;
        if !self.planning {
            let ids = bytemuck::cast_slice(batch.ids);
            self.gpu.queue().write_buffer(self.activations.ids.raw(), 0, ids);
        }
        Ok(())
    }

    fn embed(&mut self, table: &GpuMatrix) -> Result<(), GpuError> {
        self.gained_by = None;
        let tokens = self.batch.tokens;
        let grids = table.parts.iter().map(|_| embed::grid(table.loads_per_row(), tokens));
        let bind = |this: &mut Self| {
            let kernel = embed::kernel(&table.spec, this.decoder(table.spec.dtype));
            let Some(pipeline) = this.pipeline("embed", kernel)? else { return Ok(None) };
            let pitch = this.pitch(Slot::X);
            let mut bound = Vec::new();
            for part in &table.parts {
                let params = this.uniform(&embed::Params::new(table, part, pitch))?;
                let buffers = [
                    this.params(&params)?,
                    &this.activations.ids,
                    &part.weights,
                    &part.scales,
                    this.slot(Slot::X)?,
                ];
                bound.push(Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? });
            }
            Ok(Some(bound))
        };
        self.record(StepKey::Embed { table: table.id }, bind, grids)
    }

    fn expect_norm(&mut self, weight: &GpuVector) -> Result<(), GpuError> {
        self.next_norm = Some(Gain { id: weight.id, buffer: weight.buffer.clone() });
        Ok(())
    }

    fn rms_norm(&mut self, x: Slot, weight: &GpuVector, y: Slot) -> Result<(), GpuError> {
        self.scaled_slot = None;
        if x == Slot::X && (!self.prompt || y == Slot::LastNormed) {
            return self.norm_for_readers(x, weight, y);
        }
        let rows = self.batch.tokens;
        let bind = |this: &mut Self| {
            let kernel = rms_norm::kernel(this.pitch(x) / 4, this.sizes);
            let Some(pipeline) = this.pipeline("rms_norm", Some(kernel))? else {
                return Ok(None);
            };
            let params = this.uniform(&rms_norm::Params {
                width: this.shape.width(x),
                pitch: this.pitch(x) / 4,
                last: 0,
                epsilon: this.shape.norm_epsilon,
            })?;
            let buffers = [
                &this.activations.batch,
                this.params(&params)?,
                this.slot(x)?,
                &weight.buffer,
                this.slot(y)?,
            ];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::RmsNorm { x, weight: weight.id, y }, bind, [[rows, 1, 1]])
    }

    fn linear(
        &mut self,
        x: Slot,
        weight: &GpuMatrix,
        y: Slot,
        first: u32,
        write: Write,
    ) -> Result<(), GpuError> {
        let (next_norm, prompt, scaled) = (self.next_norm.take(), self.prompt, self.is_scaled(x));
        // It writes all of X, from what is no norm's, and parts of whole fours of rows: their squares lie in order.
        let in_order = weight.parts.iter().all(|part| part.first_row.is_multiple_of(4));
        let is_whole = y == Slot::X && first == 0 && weight.spec.rows == self.shape.width(y);
        let gain = next_norm.filter(|_| is_whole && in_order && !prompt && !scaled);
        let id = gain.as_ref().map(|gain| gain.id);
        let key = StepKey::Linear { x, scaled, weight: weight.id, y, write, gain: id, prompt };
        self.linear_to(key, x, weight, (GpuBufferRef::Slot(y), first), write, gain.as_ref())?;
        if y == Slot::X {
            self.gained_by = id;
        }
        Ok(())
    }

    fn gated_linear(&mut self, x: Slot, gate: &GpuMatrix, up: &GpuMatrix) -> Result<(), GpuError> {
        let (tokens, threads) = (self.batch.tokens, self.pass_threads());
        let alike = gate.spec.dtype == up.spec.dtype && gate.spec.scale_cols == up.spec.scale_cols;
        let (prompt, scaled) = (self.prompt, self.is_scaled(x));
        if prompt && alike {
            return self.gated_product(x, gate, up);
        }
        if !scaled || !alike {
            let (mlp, write) = (GpuBufferRef::Slot(Slot::Mlp), Write::Set);
            let (y, weight) = (Slot::Mlp, gate.id);
            let key = StepKey::Linear { x, scaled, weight, y, write, gain: None, prompt };
            self.linear_to(key, x, gate, (mlp, 0), write, None)?;
            let key = StepKey::Up { scaled, up: up.id, prompt };
            self.linear_to(key, x, up, (GpuBufferRef::Up, 0), Write::Set, None)?;
            let pitch = self.pitch(Slot::Mlp) / 4;
            let bind = |this: &mut Self| {
                let Some(pipeline) = this.pipeline("silu_mul", Some(silu_mul::kernel()))? else {
                    return Ok(None);
                };
                let params = this.uniform(&silu_mul::Params { pitch, padding: [0; 3] })?;
                let buffers = [this.params(&params)?, &this.activations.up, this.slot(Slot::Mlp)?];
                Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
            };
            return self.record(StepKey::Silu, bind, [silu_mul::grid(pitch, tokens)]);
        }
        self.note_product(&gate.spec, 2, true);
        let grids = gate.parts.iter().map(|part| matvec_gated::grid(&gate.spec, part.rows, tokens, threads));
        let bind = |this: &mut Self| {
            let (decoder, epsilon) = (this.decoder(gate.spec.dtype), this.shape.norm_epsilon);
            let kernel = matvec_gated::kernel(&gate.spec, decoder, threads, epsilon);
            let Some(pipeline) = this.pipeline("matvec_gated", kernel)? else { return Ok(None) };
            let (x_pitch, y_pitch) = (this.pitch(x), this.pitch(Slot::Mlp));
            let mut bound = Vec::new();
            for (part, up) in gate.parts.iter().zip(&up.parts) {
                let params = this.uniform(&matvec_gated::Params::new(gate, part, x_pitch, y_pitch))?;
                let buffers = [
                    this.params(&params)?,
                    &this.activations.gained,
                    &part.weights,
                    &part.scales,
                    &up.weights,
                    &up.scales,
                    &this.activations.squares,
                    this.slot(Slot::Mlp)?,
                ];
                bound.push(Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? });
            }
            Ok(Some(bound))
        };
        self.record(StepKey::Gated { gate: gate.id, prompt: false }, bind, grids)
    }

    fn rope_store(&mut self, layer: u32) -> Result<(), GpuError> {
        // Attention of one token does it by the way.
        if self.one.is_some() {
            return Ok(());
        }
        let (kernel, grid) = self.store_kernel();
        let bind = |this: &mut Self| {
            let Some(pipeline) = this.pipeline("rope_store", Some(kernel))? else {
                return Ok(None);
            };
            let params = this.uniform(&rope_store::Params {
                heads: this.shape.heads,
                kv_heads: this.shape.kv_heads,
                half: this.shape.head_dim / 2,
                pitch: this.pitch(Slot::Qkv),
                slots: this.shape.cache_slots(),
                padding: [0; 3],
            })?;
            let [keys, values] = this.cache(layer)?;
            let buffers = [
                &this.activations.batch,
                this.params(&params)?,
                &this.activations.rope,
                this.slot(Slot::Qkv)?,
                keys,
                values,
            ];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::RopeStore { layer }, bind, [grid])
    }

    fn attend(&mut self, layer: u32) -> Result<(), GpuError> {
        // Of several tokens that are no prompt, too: what a prompt takes is compiled.
        let prompt = self.prompt || self.batch.tokens > 1;
        if let Some(many) = self.many().filter(|_| prompt) {
            return self.attend_prompt(layer, many);
        }
        let (tokens, splits) = (self.batch.tokens, self.batch.splits);
        let one = self.one;
        let tiling = Tiling::new(&self.shape, prompt, self.sizes);
        let bind = |this: &mut Self| {
            let kernel = one.map_or_else(|| tiling.kernel(&this.shape), |one| one.kernel(&this.shape));
            let kernel = this.over_cache(kernel);
            let Some(pipeline) = this.pipeline("attend", Some(kernel))? else { return Ok(None) };
            let params = this.attend_params();
            let params = this.uniform(&params)?;
            let [keys, values] = this.cache(layer)?;
            let mut buffers = vec![&this.activations.batch, this.params(&params)?];
            buffers.extend(one.map(|_| &this.activations.rope));
            let (qkv, out) = (this.slot(Slot::Qkv)?, this.slot(Slot::AttnOut)?);
            buffers.extend([qkv, keys, values, out, &this.activations.pieces]);
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        let (key, grid) = match one {
            Some(one) => (StepKey::AttendOne { layer }, one.grid(&self.shape, splits)),
            None => (StepKey::Attend { layer, prompt }, tiling.grid(&self.shape, tokens, splits)),
        };
        self.record(key, bind, [grid])?;
        // Planning covers the longest context, which may be split.
        if splits == 1 && !self.planning {
            return Ok(());
        }
        let grid = attend_reduce::grid(&self.shape, tokens);
        let bind = |this: &mut Self| {
            let kernel = attend_reduce::kernel();
            let Some(pipeline) = this.pipeline("attend_reduce", Some(kernel))? else { return Ok(None) };
            let params = this.uniform(&attend_reduce::Params {
                heads: this.shape.heads,
                head_dim: this.shape.head_dim,
                out_pitch: this.pitch(Slot::AttnOut),
                padding: 0,
            })?;
            let buffers = [
                &this.activations.batch,
                this.params(&params)?,
                &this.activations.pieces,
                this.slot(Slot::AttnOut)?,
            ];
            Ok(Some(vec![Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? }]))
        };
        self.record(StepKey::AttendReduce, bind, [grid])
    }

    async fn finish(&mut self, logits: bool) -> Result<Option<Vec<f32>>, GpuError> {
        let pass_list = std::mem::take(&mut self.pass);
        if self.planning {
            return Ok(None);
        }
        let mut encoder = self.encode(&pass_list)?;
        let staging = &self.activations.logits_staging;
        if logits {
            let bytes = u64::from(self.shape.vocab) * 4;
            encoder.copy_buffer_to_buffer(self.slot(Slot::Logits)?.raw(), 0, staging.raw(), 0, bytes);
        }
        self.gpu.submit(Some(encoder.finish()));
        let result = if logits {
            read_buffer(&self.gpu, staging.raw(), self.shape.vocab).await.map(Some)
        } else {
            self.gpu.idle().await.map(|()| None)
        };
        match &result {
            Ok(_) | Err(GpuError::Lost { .. }) => {}
            Err(_) => {
                self.forget();
                // What only follows from the failure may come later, and is no news to the next pass.
                if let Err(lost @ GpuError::Lost { .. }) = self.gpu.idle().await {
                    return Err(lost);
                }
            }
        }
        result
    }

    fn start_sampling(
        &mut self,
        rules: &Rules,
        bias: &[(u32, f32)],
        past: Past,
    ) -> Result<Option<usize>, GpuError> {
        let mut wanted = self.stage(Stage::Decode);
        wanted.extend(self.stage(Stage::Best));
        if rules.greedy == 0 {
            wanted.extend(self.stage(Stage::Draw));
        }
        match self.kernels.are_ready(&wanted)? {
            true => self.prepare_sampling(rules, bias, past).map(Some),
            false => Ok(None),
        }
    }

    fn begin_sampled(&mut self, position: u32) -> Result<(), GpuError> {
        self.open_pass(1, position, false)
    }

    fn sample(&mut self, draw: u64) -> Result<(), GpuError> {
        self.record_choice(draw)
    }

    fn submit(&mut self) -> Result<(), GpuError> {
        self.submit_choice()
    }

    async fn sampled(&mut self) -> Result<Option<Sampled>, GpuError> {
        self.next_choice().await
    }
}

impl WebGpu {
    /// Gate, up and activation of many tokens.
    fn gated_product(&mut self, x: Slot, gate: &GpuMatrix, up: &GpuMatrix) -> Result<(), GpuError> {
        let (tokens, tile) = (self.batch.tokens, self.choice.tile);
        let grids = gate.parts.iter().map(|part| matmul_gated::grid(part.rows, tokens, tile));
        let bind = |this: &mut Self| {
            let kernel = matmul_gated::kernel(&gate.spec, this.decoder(gate.spec.dtype), tile);
            let Some(pipeline) = this.pipeline("matmul_gated", kernel)? else { return Ok(None) };
            let (x_pitch, y_pitch) = (this.pitch(x), this.pitch(Slot::Mlp));
            let mut bound = Vec::new();
            for (part, up) in gate.parts.iter().zip(&up.parts) {
                let params = this.uniform(&matmul_gated::Params::new(gate, part, x_pitch, y_pitch))?;
                let buffers = [
                    &this.activations.batch,
                    this.params(&params)?,
                    this.slot(x)?,
                    &part.weights,
                    &part.scales,
                    &up.weights,
                    &up.scales,
                    this.slot(Slot::Mlp)?,
                ];
                bound.push(Bound { pipeline, group: this.kernels.bind(&this.gpu, pipeline, &buffers)? });
            }
            Ok(Some(bound))
        };
        self.record(StepKey::Gated { gate: gate.id, prompt: true }, bind, grids)
    }

    /// Begins a pass whose ids are in place, or will be by then.
    fn open_pass(&mut self, tokens: u32, position: u32, prompt: bool) -> Result<(), GpuError> {
        self.gpu.check().inspect_err(|_| self.forget())?;
        let several = prompt || tokens <= Choice::MOST_SHORT;
        if let Some(detail) = self.shape.misfit(tokens, position, several) {
            return Err(GpuError::Shape { label: "batch".into(), detail });
        }
        let many = prompt || tokens > 1;
        self.one = if many { None } else { OneTiling::new(&self.shape, self.sizes) };
        let tiling = match self.one {
            Some(one) => one.tiling,
            None => Tiling::new(&self.shape, many, self.sizes),
        };
        let (splits, tiles_per_split) = tiling.splits(&self.shape, position, tokens, many);
        self.batch = BatchUniform { tokens, position, splits, tiles_per_split };
        self.prompt = prompt;
        (self.next_norm, self.gained_by, self.scaled_slot) = (None, None, None);
        self.pass.clear();
        if !self.planning {
            let rope = self.shape.rope_table(position, tokens);
            let queue = self.gpu.queue();
            queue.write_buffer(self.activations.batch.raw(), 0, bytemuck::bytes_of(&self.batch));
            queue.write_buffer(self.activations.rope.raw(), 0, bytemuck::cast_slice(&rope));
        }
        Ok(())
    }

    /// The pass as one compute pass.
    pub(super) fn encode(&self, pass_list: &[Dispatch]) -> Result<wgpu::CommandEncoder, GpuError> {
        let mut encoder =
            self.gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for dispatch in pass_list {
            self.encode_one(&mut pass, dispatch)?;
        }
        drop(pass);
        Ok(encoder)
    }
}
