//! The steps of a layer.

use super::attention::{self, attend};
use super::formats::STEP;
use super::int8;
use super::lanes::{add, div, exp, load, mul, splat, store};
use super::product::{Out, matmul, matvec, widen_row};
use super::{Cpu, CpuError, CpuMatrix, CpuVector, layout, pitch, shape_error};
use crate::dtype::Dtype;
use crate::steps::{Batch, Slot, Steps, Write};

impl Cpu {
    /// Takes `y` out, lets `step` fill it, and puts it back.
    fn fill(
        &mut self,
        y: Slot,
        step: impl FnOnce(&mut Cpu, &mut [f32]) -> Result<(), CpuError>,
    ) -> Result<(), CpuError> {
        if self.planning {
            return Ok(());
        }
        let mut values = self.slots.remove(&y).unwrap_or_default();
        let result = step(self, &mut values);
        self.slots.insert(y, values);
        result
    }

    fn slot(&self, slot: Slot) -> &[f32] {
        self.slots.get(&slot).map(Vec::as_slice).unwrap_or_default()
    }

    fn pitch(&self, slot: Slot) -> usize {
        pitch(&self.shape, slot) as usize
    }

    fn product(
        &mut self,
        x: Slot,
        weight: CpuMatrix,
        (y, first): (Slot, u32),
        out: &mut [f32],
        write: Write,
    ) -> Result<(), CpuError> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let matrix = self.matrix_of(weight)?;
        let (rows, matrix) = (matrix.spec.rows as usize, matrix.stored());
        let add = write == Write::Add;
        let mut out = Out { y: out, pitch: self.pitch(y), first: first as usize, rows, add };
        // One row is a matrix-vector product even in a prompt.
        let many = self.prompt && y != Slot::Logits;
        let (x, tokens) = ((self.slot(x), self.pitch(x)), if many { self.ids.len() } else { 1 });
        match matrix.dtype {
            Dtype::I8 => int8::product(matrix, x, tokens, &mut scratch.inputs, &mut out),
            _ if many => matmul(matrix, x, tokens, &mut scratch.wide, &mut out),
            _ => matvec(matrix, x.0, &mut scratch.arranged, &mut out),
        }
        self.scratch = scratch;
        Ok(())
    }
}

impl Steps for Cpu {
    fn plan(&mut self) {
        self.planning = true;
    }

    fn compile(&mut self) {
        self.planning = false;
    }

    async fn compiled(&mut self, _progress: &mut dyn FnMut(u64, u64)) -> Result<(), CpuError> {
        Ok(())
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), CpuError> {
        let tokens = batch.ids.len() as u32;
        if let Some(detail) = self.shape.misfit(tokens, batch.position, batch.prompt) {
            return Err(shape_error("batch", detail));
        }
        self.ids.clear();
        self.ids.extend_from_slice(batch.ids);
        (self.position, self.prompt) = (batch.position, batch.prompt);
        if batch.position <= self.poisoned {
            self.poisoned = u32::MAX;
        }
        self.rope = self.shape.rope_table(batch.position, tokens);
        Ok(())
    }

    fn embed(&mut self, table: &CpuMatrix) -> Result<(), CpuError> {
        self.fill(Slot::X, |this, x| {
            let matrix = this.matrix_of(*table)?.stored();
            let mut wide = vec![splat(0.0); matrix.cols.next_multiple_of(STEP) / 4];
            for (id, row) in this.ids.iter().zip(x.chunks_exact_mut(this.pitch(Slot::X).max(1))) {
                widen_row(matrix, *id as usize, &mut wide);
                for (out, lanes) in row.as_chunks_mut::<4>().0.iter_mut().zip(&wide) {
                    *out = store(*lanes);
                }
            }
            Ok(())
        })
    }

    fn rms_norm(&mut self, x: Slot, weight: &CpuVector, y: Slot) -> Result<(), CpuError> {
        self.fill(y, |this, out| {
            let weight = this.vectors.get(weight.0).map(Vec::as_slice).unwrap_or_default();
            let (width, epsilon) = (this.shape.width(x) as usize, f64::from(this.shape.norm_epsilon));
            let skipped = if y == Slot::LastNormed { this.ids.len().saturating_sub(1) } else { 0 };
            let rows = this.slot(x).chunks_exact(this.pitch(x).max(1)).take(this.ids.len()).skip(skipped);
            for (row, out) in rows.zip(out.chunks_exact_mut(this.pitch(y).max(1))) {
                let squares = row.iter().take(width).map(|x| f64::from(*x).powi(2)).sum::<f64>();
                let scale = 1.0 / (squares / width as f64 + epsilon).sqrt();
                for ((out, x), weight) in out.iter_mut().zip(row).zip(weight) {
                    *out = (f64::from(*x) * scale) as f32 * weight;
                }
            }
            Ok(())
        })
    }

    fn linear(
        &mut self,
        x: Slot,
        weight: &CpuMatrix,
        y: Slot,
        first: u32,
        write: Write,
    ) -> Result<(), CpuError> {
        self.fill(y, |this, out| this.product(x, *weight, (y, first), out, write))
    }

    fn gated_linear(&mut self, x: Slot, gate: &CpuMatrix, up: &CpuMatrix) -> Result<(), CpuError> {
        self.fill(Slot::Mlp, |this, mlp| {
            let mut up_out = std::mem::take(&mut this.up);
            let both = this
                .product(x, *gate, (Slot::Mlp, 0), mlp, Write::Set)
                .and_then(|()| this.product(x, *up, (Slot::Mlp, 0), &mut up_out, Write::Set));
            let used = this.pitch(Slot::Mlp) * this.ids.len();
            let gates = mlp.as_chunks_mut::<4>().0.iter_mut();
            for (gate, up) in gates.zip(up_out.as_chunks::<4>().0).take(used / 4) {
                let lanes = load(gate);
                let divisor = add(splat(1.0), exp(mul(lanes, splat(-1.0))));
                *gate = store(mul(div(lanes, divisor), load(up)));
            }
            this.up = up_out;
            both
        })
    }

    fn rope_store(&mut self, layer: u32) -> Result<(), CpuError> {
        self.fill(Slot::Qkv, |this, qkv| {
            let shape = &this.shape;
            let (half, head_dim) = ((shape.head_dim / 2) as usize, shape.head_dim as usize);
            let (q_width, kv_width) = (shape.q_width() as usize, shape.kv_width() as usize);
            let (pitch, layout) = (this.pitch(Slot::Qkv), layout(shape));
            let Some([keys, values]) = this.caches.get_mut(layer as usize) else { return Ok(()) };
            let rows = qkv.chunks_exact_mut(pitch.max(1)).zip(this.rope.chunks_exact(half.max(1)));
            for (position, (row, rope)) in (this.position..).zip(rows) {
                let Some((rotated, rest)) = row.split_at_mut_checked(q_width + kv_width) else { continue };
                for head in rotated.chunks_exact_mut(head_dim.max(1)) {
                    rotate(head, rope);
                }
                let key = rotated.get(q_width..).unwrap_or_default();
                let value = rest.get(..kv_width).unwrap_or_default();
                if key.iter().chain(value).any(|element| element.is_nan()) {
                    this.poisoned = this.poisoned.min(position);
                }
                layout.write(position as usize, [key, value], [keys, values]);
            }
            Ok(())
        })
    }

    fn attend(&mut self, layer: u32) -> Result<(), CpuError> {
        self.fill(Slot::AttnOut, |this, out| {
            let mut scratch = std::mem::take(&mut this.scratch.attention);
            let shape = attention::Shape {
                cache: layout(&this.shape),
                tokens: this.ids.len(),
                position: this.position as usize,
                group: (this.shape.heads / this.shape.kv_heads.max(1)) as usize,
                window: this.shape.window.unwrap_or(u32::MAX) as usize,
                qkv_pitch: this.pitch(Slot::Qkv),
                out_pitch: this.pitch(Slot::AttnOut),
            };
            if let Some([keys, values]) = this.caches.get(layer as usize) {
                attend(shape, this.slot(Slot::Qkv), [keys, values], &mut scratch, out);
                let sound = this.poisoned.saturating_sub(this.position) as usize;
                let tokens = out.chunks_exact_mut(shape.out_pitch.max(1)).take(shape.tokens);
                let heads = this.shape.q_width() as usize;
                tokens.skip(sound).for_each(|row| row.iter_mut().take(heads).for_each(|out| *out = f32::NAN));
            }
            this.scratch.attention = scratch;
            Ok(())
        })
    }

    async fn finish(&mut self, logits: bool) -> Result<Option<Vec<f32>>, CpuError> {
        if self.planning {
            return Ok(None);
        }
        if let Some(turn) = self.turn {
            turn().await;
        }
        Ok(logits.then(|| self.read(Slot::Logits, 1)))
    }
}

/// One head, element i rotated with element i + half.
fn rotate(head: &mut [f32], rope: &[[f32; 2]]) {
    let (low, high) = head.split_at_mut(head.len() / 2);
    for ((a, b), [cos, sin]) in low.iter_mut().zip(high).zip(rope) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
