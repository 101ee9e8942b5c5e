//! Choosing how products are computed.

use web_time::Duration;

use super::{Stage, WebGpu};
use crate::gpu::GpuError;
use crate::kernels::tune::{Product, shapes};
use crate::kernels::{Choice, Threads, Tuner};
use crate::steps::MatrixSpec;

impl WebGpu {
    /// Prepares to choose how products are computed, after planning; `None` where there is nothing to compare.
    ///
    /// # Errors
    /// What the device says to the memory that it takes.
    pub async fn tuner(&mut self, budget: Duration) -> Result<Option<Tuner>, GpuError> {
        let decoder = |spec: &MatrixSpec| self.decoder(spec.dtype);
        let (gpu, most) = (&self.gpu, self.shape.max_batch);
        Tuner::new(gpu, self.choice, &self.products, most, decoder, self.subgroup, budget).await
    }

    /// What a choice depends on: this program, the adapter and, after planning, the shapes that are timed.
    pub fn tuning_key(&self) -> String {
        let tier = self.gpu.tier();
        let mut key = format!("bise {}; {}", env!("CARGO_PKG_VERSION"), tier.identity);
        if self.subgroup > 0 {
            key += &format!("; subgroups of {}", self.subgroup);
        }
        for Product { spec, tiled, .. } in shapes(&self.products, tier.max_binding_bytes) {
            let MatrixSpec { rows, cols, dtype, scale_cols, .. } = spec;
            let tiled = if tiled { "tiled " } else { "" };
            key += &format!("; {tiled}{rows} x {cols} {dtype:?}/{scale_cols}");
        }
        key
    }

    /// Computes products like this from here on: to be planned and compiled again.
    pub fn tune(&mut self, choice: Choice) {
        self.choice = choice;
    }

    /// How products are computed.
    pub fn choice(&self) -> Choice {
        self.choice
    }

    /// Tokens of a prompt's end for which matrix-vector products are the faster ones, once those are compiled.
    pub(super) fn ready_short(&mut self) -> u32 {
        let wanted = if self.choice.short > 0 { self.stage(Stage::Decode) } else { return 0 };
        // What the compiler says is heard where a token is decoded.
        if self.kernels.are_ready(&wanted).unwrap_or(false) { self.choice.short } else { 0 }
    }

    /// Notes a product that every decoded token takes; `tiled`, whether prompts take it as a matrix-matrix product.
    pub(super) fn note_product(&mut self, spec: &MatrixSpec, times: u32, tiled: bool) {
        if !self.planning || self.prompt {
            return;
        }
        let alike = |product: &&mut Product| {
            let s = &product.spec;
            (s.rows, s.cols, s.dtype, s.scale_cols) == (spec.rows, spec.cols, spec.dtype, spec.scale_cols)
        };
        match self.products.iter_mut().find(alike) {
            Some(product) => {
                product.times += times;
                product.tiled |= tiled;
            }
            None => self.products.push(Product { spec: spec.clone(), times, tiled }),
        }
    }

    /// Threads of a decoded token's products.
    pub fn threads(&self) -> Threads {
        self.choice.threads.within(if self.choice.subgroups { self.subgroup } else { 0 })
    }

    /// Threads of the pass being recorded. The last product of a prompt does not depend on tuning.
    pub(super) fn pass_threads(&self) -> Threads {
        if self.prompt { Threads::of(self.sizes).within(self.subgroup) } else { self.threads() }
    }
}
