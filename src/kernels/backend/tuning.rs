//! Choosing the threads of decoding.

use super::WebGpu;
use crate::kernels::{Sizes, Threads, Tuner};
use crate::steps::MatrixSpec;

impl WebGpu {
    /// Prepares to choose the threads of decoding, after planning. Unless
    /// `forced`, not on an adapter that computes on the CPU, where it would only delay the first token.
    /// What goes wrong with it leaves all as it is.
    pub async fn tuner(&mut self, forced: bool) -> Option<Tuner> {
        if !forced && self.sizes == Sizes::Cpu {
            return None;
        }
        let decoder = |spec: &MatrixSpec| self.decoder(spec.dtype);
        Tuner::new(&self.gpu, &self.products, decoder).await.ok().flatten()
    }

    /// Decodes with these threads from here on, or with the usual ones: to be planned and compiled again.
    pub fn tuned(&mut self, threads: Option<Threads>) {
        self.threads = threads.unwrap_or(self.threads);
    }

    /// Threads of a matrix-vector product.
    pub fn threads(&self) -> Threads {
        self.threads
    }

    /// Notes a product that every decoded token takes.
    pub(super) fn note_product(&mut self, spec: &MatrixSpec, times: u32) {
        if !self.planning || self.prompt {
            return;
        }
        let alike = |(s, _): &&mut (MatrixSpec, u32)| {
            (s.rows, s.cols, s.dtype, s.scale_cols) == (spec.rows, spec.cols, spec.dtype, spec.scale_cols)
        };
        match self.products.iter_mut().find(alike) {
            Some((_, count)) => *count += times,
            None => self.products.push((spec.clone(), times)),
        }
    }

    /// Threads of the pass being recorded. Prompts do not depend on tuning: they are compiled before.
    pub(super) fn pass_threads(&self) -> Threads {
        if self.prompt { Threads::of(self.sizes) } else { self.threads }
    }
}
