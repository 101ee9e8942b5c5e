//! How products suit a device best: candidates are timed on the model's largest shapes.

mod contest;
mod run;

use std::cell::Cell;

use web_time::Duration;

use crate::gpu::{Gpu, GpuBuffer, GpuError, GpuMatrix, Kernel, Kernels, Purpose};
use crate::steps::{MatrixSpec, Write};

use super::choice::Choice;
use super::weights::{Decoder, per_load};
use super::{BatchUniform, PITCH, Sizes, Threads, Tile, linear, matmul, matvec};
use contest::{Contest, ROUNDS};
use run::{Bench, How, LEAST, Run};

/// What measurements may take in all. What compiles is not among them.
pub const BUDGET: Duration = Duration::from_millis(500);

/// The parts of it, in hundredths, by whose end the threads, the tile, and the path of short prompts are chosen.
const UNTIL: [u32; 3] = [50, 85, 100];

/// One measurement at most, about: what one at a time takes on a GPU.
const SAMPLE: Duration = Duration::from_millis(20);

/// Ends of prompts for which the two kinds of product are compared: tokens, up to [`Choice::MOST_SHORT`].
const SHORT: [u32; 6] = [1, 2, 3, 4, 6, 8];

/// Device memory for each of two matrices, bytes.
const MOST_BYTES: u64 = 32 << 20;

/// A product that every decoded token takes.
#[derive(Clone, Debug)]
pub struct Product {
    /// The matrix.
    pub spec: MatrixSpec,
    /// How often a token takes it.
    pub times: u32,
    /// Whether prompts take it, too, as a matrix-matrix product.
    pub tiled: bool,
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuned {
    /// The fastest.
    pub choice: Choice,
    /// Candidates that were timed.
    pub timed: u32,
}

/// Ways to compute the same, the usual one first.
type Candidates = Vec<(Choice, Vec<Run>)>;

/// A comparison that is ready to run. It holds all it needs: weights may stream meanwhile.
pub struct Tuner {
    vectors: Candidates,
    tiles: Candidates,
    bench: Bench,
    usual: Choice,
    /// Tokens of the matrix-matrix products.
    tokens: u32,
    budget: Duration,
    // What the bind groups refer to.
    _matrices: Vec<GpuMatrix>,
    _buffers: Vec<GpuBuffer>,
}

/// The shapes to time: the heaviest of prompts and tokens, then the heaviest other one; of each as many rows as
/// one buffer and [`MOST_BYTES`] hold.
pub fn shapes(products: &[Product], limit: u64) -> Vec<Product> {
    let row_bytes = |spec: &MatrixSpec| u64::from(spec.cols.div_ceil(per_load(spec.dtype)).max(1)) * 16;
    let weight = |product: &&Product| {
        row_bytes(&product.spec) * u64::from(product.spec.rows) * u64::from(product.times)
    };
    let first = products.iter().max_by_key(|product| (product.tiled, weight(product)));
    let others = products.iter().filter(|other| first.is_some_and(|first| !std::ptr::eq(first, *other)));
    first
        .into_iter()
        .chain(others.max_by_key(weight))
        .map(|product| {
            let mut product = product.clone();
            let rows = limit.min(MOST_BYTES) / row_bytes(&product.spec);
            product.spec.rows = product.spec.rows.min(u32::try_from(rows).unwrap_or(u32::MAX)).max(1);
            product
        })
        .collect()
}

/// What the kernels over one matrix are bound to.
struct Bound {
    matrix: GpuMatrix,
    params: GpuBuffer,
    x: GpuBuffer,
    y: GpuBuffer,
}

impl Bound {
    fn new(gpu: &Gpu, spec: &MatrixSpec, tokens: u32) -> Result<Bound, GpuError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let buffer = |bytes: u64| gpu.buffer("tuning", bytes, usage, Purpose::Activations);
        let matrix = GpuMatrix::new(gpu, 0, spec)?;
        let [x, y] = [spec.cols, spec.rows].map(|width| width.next_multiple_of(PITCH));
        let params = buffer(size_of::<linear::Params>() as u64)?;
        if let Some(part) = matrix.parts.first() {
            let of_part = linear::Params::new(&matrix, part, x, y, 0, false, Write::Set);
            gpu.queue().write_buffer(params.raw(), 0, bytemuck::bytes_of(&of_part));
        }
        let [x, y] = [x, y].map(|width| buffer(u64::from(width) * u64::from(tokens) * 4));
        Ok(Bound { matrix, params, x: x?, y: y? })
    }

    /// A kernel over the matrix's first part.
    fn run(
        &self,
        gpu: &Gpu,
        bench: &mut Bench,
        kernel: Option<Kernel>,
        how: How,
    ) -> Result<Option<Run>, GpuError> {
        let (Some(kernel), Some(part)) = (kernel, self.matrix.parts.first()) else { return Ok(None) };
        let pipeline = bench.kernels.start(gpu, kernel);
        let buffers = [&bench.batch, &self.params, &self.x, &part.weights, &part.scales, &self.y];
        let group = bench.kernels.bind(gpu, pipeline, &buffers)?;
        Ok(Some(Run { pipeline, group, spec: self.matrix.spec.clone(), rows: part.rows, how }))
    }
}

impl Tuner {
    /// Prepares the comparison for these products and at most `max_batch` tokens, and starts to compile the
    /// candidates, beside the `usual` choice; `subgroup`: threads whose sums may meet within one, or 0. `None` where
    /// there is nothing to compare.
    ///
    /// # Errors
    /// What the device says to the memory that it takes.
    pub async fn new(
        gpu: &Gpu,
        usual: Choice,
        products: &[Product],
        max_batch: u32,
        decoder: impl Fn(&MatrixSpec) -> Decoder,
        subgroup: u32,
        budget: Duration,
    ) -> Result<Option<Tuner>, GpuError> {
        let shapes = shapes(products, gpu.tier().max_binding_bytes);
        let Some(first) = shapes.first() else { return Ok(None) };
        let sizes = Sizes::of(gpu.tier());
        let most = if sizes == Sizes::Cpu { 32 } else { 128 };
        let tokens = if first.tiled { max_batch.min(most) } else { 1 };
        let make = || {
            let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
            let batch =
                gpu.buffer("tuning", size_of::<BatchUniform>() as u64, usage, Purpose::Activations)?;
            let counts = [tokens, 1].into_iter();
            let bound = shapes.iter().zip(counts).map(|(shape, count)| Bound::new(gpu, &shape.spec, count));
            Ok((batch, bound.collect::<Result<Vec<_>, _>>()?))
        };
        let (batch, bound) = gpu.guarded("tuning", make).await?;
        let (device, queue) = (gpu.device().clone(), gpu.queue().clone());
        let mut bench = Bench { kernels: Kernels::default(), batch, device, queue, spent: Cell::default() };

        let mut choices: Vec<Choice> =
            Threads::candidates(sizes).iter().map(|threads| Choice { threads: *threads, ..usual }).collect();
        // Against the usual threads with the usual decoder and with subgroups, where there are others.
        let is_fast = bound.iter().any(|each| decoder(&each.matrix.spec) != Decoder::Safe);
        choices.extend(is_fast.then_some(Choice { fast: false, ..usual }));
        choices.extend((subgroup > 0).then_some(Choice { subgroups: false, ..usual }));
        let mut vectors = Vec::new();
        for choice in choices {
            let mut runs = Vec::new();
            for each in &bound {
                let spec = &each.matrix.spec;
                let decoder = if choice.fast { decoder(spec) } else { Decoder::Safe };
                let threads = choice.threads.within(if choice.subgroups { subgroup } else { 0 });
                let kernel = matvec::kernel(spec, decoder, threads);
                runs.extend(each.run(gpu, &mut bench, kernel, How::Vector(threads))?);
            }
            vectors.push((choice, runs));
        }
        let mut tiles: Candidates = Vec::new();
        let others = Tile::candidates(sizes).iter().filter(|tile| **tile != usual.tile);
        for tile in [usual.tile].iter().chain(others).filter(|_| tokens > 1) {
            let Some(each) = bound.first() else { break };
            let kernel = matmul::kernel(&each.matrix.spec, decoder(&each.matrix.spec), *tile);
            let runs = each.run(gpu, &mut bench, kernel, How::Tiled(*tile))?;
            tiles.push((Choice { tile: *tile, ..usual }, runs.into_iter().collect()));
        }
        let (mut matrices, mut buffers) = (Vec::new(), Vec::new());
        for Bound { matrix, params, x, y } in bound {
            matrices.push(matrix);
            buffers.extend([params, x, y]);
        }
        Ok(Some(Tuner {
            vectors,
            tiles,
            bench,
            usual,
            tokens,
            budget,
            _matrices: matrices,
            _buffers: buffers,
        }))
    }

    /// Times the candidates by turns; the fastest, or the usual ones unless others are clearly faster. Where
    /// time runs out, those decide that were measured; `None` if too few were.
    ///
    /// # Errors
    /// What the compiler says.
    pub async fn run(mut self) -> Result<Option<Tuned>, GpuError> {
        self.bench.kernels.finish(&mut |_, _| ()).await?;
        let [threads_end, tile_end, end] = UNTIL.map(|percent| self.budget * percent / 100);
        let (vectors, tiles) = (runs_of(&self.vectors), runs_of(&self.tiles));
        let by_threads = self.compare(&vectors, 1, 1, threads_end).await;
        let by_tile = self.compare(&tiles, self.tokens, 1, tile_end).await;
        let mut choice = self.usual;
        let [vector, tile] = [&by_threads, &by_tile].map(|contest| contest.winner());
        if let Some((winner, _)) = vector.and_then(|at| self.vectors.get(at)) {
            (choice.threads, choice.fast, choice.subgroups) = (winner.threads, winner.fast, winner.subgroups);
        }
        if let Some((winner, _)) = tile.and_then(|at| self.tiles.get(at)) {
            choice.tile = winner.tile;
        }
        let mut timed = by_threads.compared() + by_tile.compared();
        // The winners, one against the other.
        let vector = vectors.get(vector.unwrap_or(0)).and_then(|runs| runs.get(..1));
        if let (Some(vector), Some(tiled)) = (vector, tiles.get(tile.unwrap_or(0))) {
            let (mut least, mut most) = (0, SHORT.partition_point(|tokens| *tokens <= self.tokens));
            // The more tokens, the better for the tiled product.
            while let Some(tokens) = SHORT.get((least + most) / 2).filter(|_| least < most) {
                let contest = self.compare(&[*tiled, vector], *tokens, 3, end).await;
                timed += contest.compared();
                if contest.winner() == Some(1) {
                    (choice.short, least) = (*tokens, (least + most) / 2 + 1);
                } else {
                    most = (least + most) / 2;
                }
            }
        }
        Ok((timed > 0).then_some(Tuned { choice, timed }))
    }

    /// Times these by turns over that many tokens, until so much of the budget is spent that is to do for so many
    /// such comparisons.
    async fn compare(&self, candidates: &[&[Run]], tokens: u32, times: u32, until: Duration) -> Contest {
        let mut contest = Contest::new(candidates.len());
        let Some(usual) = candidates.first() else { return contest };
        let left = || until.saturating_sub(self.bench.spent.get());
        let share = left() / (candidates.len() as u32 * (ROUNDS + 2) * times);
        // Drivers leave work to the first dispatch of a pipeline: it belongs to compiling.
        self.bench.run(usual, tokens, LEAST).await;
        let amount = self.bench.amount(usual, tokens, share.min(SAMPLE)).await;
        let mut warm = vec![*usual];
        while let Some(at) = contest.next(left()) {
            let Some(runs) = candidates.get(at) else { break };
            if !warm.iter().any(|known| std::ptr::eq(*known, *runs)) {
                self.bench.run(runs, tokens, LEAST).await;
                warm.push(*runs);
            }
            contest.note(at, self.bench.time(runs, tokens, amount).await);
        }
        contest
    }
}

fn runs_of(candidates: &Candidates) -> Vec<&[Run]> {
    candidates.iter().map(|(_, runs)| runs.as_slice()).collect()
}
