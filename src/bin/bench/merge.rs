//! The merge on this machine's processor, beside what its memory does at most.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::Instant;

use bise::checkpoint::sink::FileSink;
use bise::checkpoint::source::FileSource;
use bise::engine::bench::{BenchOptions, BenchReport, Unit};
use bise::kernels::probe::median;
use bise::merge::slerp::{Sums, blend_bf16, coefficients};
use bise::merge::{Merge, MergeOptions, Parent, Recipe};
use pollster::block_on;

/// Bytes of each of three arrays: more than caches hold.
const BYTES: usize = 128 << 20;

/// Adds the figures of the merge.
pub fn measure(model: &Path, options: BenchOptions, report: &mut BenchReport) -> Result<(), Box<dyn Error>> {
    let bytes = if options.quick { BYTES / 8 } else { BYTES };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    // Neither all alike nor zero: BF16 between 2^-3 and 2, of both signs.
    let fill = |seed: usize| (0..bytes).map(|i| ((i * 31 + seed) % 251) as u8 & 0x83 | 0x3c).collect();
    let (a, b): (Vec<u8>, Vec<u8>) = (fill(1), fill(7));
    let mut c = vec![1_u8; bytes];
    let rate = |bytes: usize, started: Instant| 3.0 * bytes as f64 / started.elapsed().as_secs_f64() / 1e9;
    let mut rates = [const { Vec::new() }; 4];
    for _ in 0..options.rounds.max(1) * 2 {
        let [alone, together, slerp_alone, slerp_together] = &mut rates;
        for (threads, adds, slerps) in [(1, alone, slerp_alone), (threads, together, slerp_together)] {
            let started = Instant::now();
            on_threads(threads, [&a, &b], &mut c, add);
            adds.push(rate(bytes, started));
            let started = Instant::now();
            on_threads(threads, [&a, &b], &mut c, slerp);
            slerps.push(rate(bytes, started));
            if c.iter().all(|byte| *byte == 0) {
                return Err("the merge of two arrays is nothing".into());
            }
        }
    }
    drop((a, b, c));
    let [alone, together, slerp_alone, slerp_together] = rates;
    let (figures, unit) = (&mut report.figures, Unit::Times(1.0, "GB/s"));
    for (threads, adds, slerps) in
        [("one thread", &alone, &slerp_alone), ("all threads", &together, &slerp_together)]
    {
        let name = format!("memory, two read and one written, {threads}");
        figures.add(("limit", &name, 0), unit, adds, 0.0);
        let name = format!("slerp of BF16 in memory, {threads}");
        figures.add(("merge", &name, 0), unit, slerps, median(adds));
    }
    let whole = files(model, options)?;
    figures.add(("merge", "the model with itself, with files", 0), unit, &whole, median(&alone));
    Ok(())
}

/// Gives each thread its part of the arrays.
fn on_threads(threads: usize, [a, b]: [&[u8]; 2], c: &mut [u8], work: fn(&[u8], &[u8], &mut [u8])) {
    let part = a.len().div_ceil(threads).next_multiple_of(64);
    thread::scope(|scope| {
        for ((a, b), c) in a.chunks(part).zip(b.chunks(part)).zip(c.chunks_mut(part)) {
            scope.spawn(move || work(a, b, c));
        }
    });
}

/// `c = a + b`, word by word: what the compiler makes of it is bound by memory.
fn add(a: &[u8], b: &[u8], c: &mut [u8]) {
    let words = a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0);
    for ((a, b), c) in words.zip(c.as_chunks_mut::<4>().0) {
        *c = u32::from_ne_bytes(*a).wrapping_add(u32::from_ne_bytes(*b)).to_ne_bytes();
    }
}

/// Elements of a chunk, as a merge computes them.
const CHUNK: usize = 1 << 16;

/// A SLERP of two tensors of BF16, both passes, in the chunks of a merge; each is blended to its place.
fn slerp(a: &[u8], b: &[u8], c: &mut [u8]) {
    let (a, b, c) = (a.as_chunks::<2>().0, b.as_chunks::<2>().0, c.as_chunks_mut::<2>().0);
    let mut sums = Sums::default();
    let chunks = || a.chunks(CHUNK).zip(b.chunks(CHUNK));
    chunks().for_each(|(a, b)| sums.add_bf16(a, b));
    let factors = coefficients(sums.totals(), 0.5).factors.map(|factor| factor as f32);
    chunks().zip(c.chunks_mut(CHUNK)).for_each(|((a, b), c)| blend_bf16(factors, a, b, c));
}

/// Gigabytes per second that are read and written when the model is merged with itself, into the folder for
/// temporary files.
fn files(model: &Path, options: BenchOptions) -> Result<Vec<f64>, Box<dyn Error>> {
    let text = "merge_method: slerp\nbase_model: a\nmodels:\n- model: a\n- model: b\nparameters:\n  t: 0.5\ndtype: bfloat16\n";
    let mut rates = Vec::new();
    for _ in 0..options.rounds.max(1) {
        let recipe = Recipe::parse(text)?;
        let started = Instant::now();
        let (read, written) = block_on(async {
            let mut parents = Vec::new();
            for name in recipe.models() {
                parents.push(Parent::open(name, FileSource::new(model)).await?);
            }
            let read: u64 = parents.iter().map(|parent| parent.manifest.total_bytes()).sum();
            let (nobody, never) = (Box::new(|_: &_| ()), Rc::new(|| false));
            let merge = Merge::new(recipe, text, parents, MergeOptions::default(), never, nobody).await?;
            let out = tempdir()?;
            merge.write(&mut FileSink::new(&out.0), &mut |_| ()).await?;
            Ok::<_, Box<dyn Error>>((read, merge.total_bytes()))
        })?;
        rates.push((read + written) as f64 / started.elapsed().as_secs_f64() / 1e9);
    }
    Ok(rates)
}

/// A folder that is removed with everything in it.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed is the system's to tidy up.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempdir() -> std::io::Result<Temporary> {
    let path = std::env::temp_dir().join(format!("bise-bench-{}", std::process::id()));
    std::fs::create_dir(&path)?;
    Ok(Temporary(path))
}
