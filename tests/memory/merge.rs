//! Merging gigabytes takes megabytes.

use std::rc::Rc;

use bise::checkpoint::CheckpointError;
use bise::checkpoint::sink::ByteSink;
use bise::merge::{Merge, MergeOptions, Parent, Recipe};

use super::common::synthetic::SyntheticSource;
use super::{LOADED_CONFIG, alone, peak_bytes};

/// Counts what it is given, and keeps nothing.
#[derive(Default)]
struct Nowhere {
    files: usize,
    bytes: u64,
}

impl ByteSink for Nowhere {
    async fn create(&mut self, _file: &str, _bytes: u64) -> Result<(), CheckpointError> {
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), CheckpointError> {
        self.files += 1;
        Ok(())
    }
}

/// A whole merge on the CPU. Its binding number is the design's, too.
#[test]
fn a_pair_of_two_gigabytes_merges_in_96_mib() {
    let _alone = alone();
    let sources = [0, 1].map(|_| SyntheticSource::new(LOADED_CONFIG, 2));
    // Weights follow from their names: other layers are other weights.
    let recipe = "slices:\n\
                  - sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [1, 5]}]\n\
                  merge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\ndtype: bfloat16\n";
    for quantize in [false, true] {
        sources.iter().for_each(|source| source.served_bytes.set(0));
        let mut sink = Nowhere::default();
        let mut spherical = 0;
        let peak = peak_bytes(|| {
            pollster::block_on(async {
                let parsed = Recipe::parse(recipe).unwrap();
                let mut parents = Vec::new();
                for (model, source) in parsed.models().into_iter().zip(sources.clone()) {
                    parents.push(Parent::open(model, source).await.unwrap());
                }
                let options = MergeOptions { shard_bytes: 500_000_000, quantize, ..MergeOptions::default() };
                let (cancelled, on_tensor) = (Rc::new(|| false), Box::new(|_: &_| ()));
                let merge = Merge::new(parsed, recipe, parents, options, cancelled, on_tensor).await.unwrap();
                merge.write(&mut sink, &mut |_| ()).await.unwrap();
                spherical = merge.report().totals.spherical;
                assert!(sink.bytes > merge.total_bytes());
            });
        });
        let served: u64 = sources.iter().map(|source| source.served_bytes.get()).sum();
        println!(
            "peak {peak} bytes for {} bytes of result from {served}, f8: {quantize}, {} files",
            sink.bytes, sink.files
        );
        assert!(sink.bytes > if quantize { 800_000_000 } else { 1_700_000_000 });
        assert!(spherical >= 4 * 7, "{spherical}: the matrices of the layers are unlike one another");
        assert!(peak < 96 << 20, "peak {peak} bytes");
        // What does not fit in memory is read once per pass, and no more.
        assert!(served < 4 * sources[0].total_bytes(), "{served} bytes");
    }
}
