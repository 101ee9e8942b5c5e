//! Merging gigabytes takes megabytes.

use std::rc::Rc;

use bise::checkpoint::CheckpointError;
use bise::checkpoint::sink::ByteSink;
use bise::checkpoint::source::MemorySource;
use bise::checkpoint::writer::{Plan, TensorSpec};
use bise::dtype::Dtype;
use bise::merge::{Merge, MergeOptions, ModelRef, Parent, Recipe};

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

/// A model as an FP8 checkpoint: each byte is read once, and nothing kept but the scales.
#[test]
fn a_model_of_two_gigabytes_is_exported_in_16_mib() {
    let _alone = alone();
    let source = SyntheticSource::new(LOADED_CONFIG, 2);
    let mut sink = Nowhere::default();
    let peak = peak_bytes(|| {
        pollster::block_on(async {
            let name = ModelRef { path: "a".into(), revision: None };
            let parent = Parent::open(name, source.clone()).await.unwrap();
            let options = MergeOptions { quantize: true, ..MergeOptions::default() };
            let merge = Merge::copy(parent, options, Rc::new(|| false), Box::new(|_| ())).await.unwrap();
            merge.write(&mut sink, &mut |_| ()).await.unwrap();
        });
    });
    let served = source.served_bytes.get();
    println!("peak {peak} bytes for {} bytes of FP8 from {served}", sink.bytes);
    assert!(sink.bytes > 1_000_000_000);
    assert!(served < source.total_bytes() / 100 * 101, "{served} of {}", source.total_bytes());
    assert!(peak < 16 << 20, "peak {peak} bytes");
}

/// FP8 weights whose blocks are narrow and high: few scales, of which one for every row of every block
/// would be a quarter as long as the weights.
fn scaled_in_high_blocks() -> (MemorySource, usize) {
    let (hidden, intermediate) = (64_u64, 400_000_u64);
    let config = serde_json::json!({
        "model_type": "mistral", "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "vocab_size": 8, "quantization_config": { "quant_method": "fp8", "weight_block_size": [intermediate, 16] }
    });
    let mut specs = Vec::new();
    let mut add = |name: &str, dtype: Dtype, shape: &[u64]| {
        specs.push(TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() });
    };
    add("model.embed_tokens.weight", Dtype::F32, &[8, hidden]);
    add("model.norm.weight", Dtype::F32, &[hidden]);
    add("lm_head.weight", Dtype::F32, &[8, hidden]);
    for (part, shape) in [
        ("self_attn.q_proj", [8, hidden]),
        ("self_attn.k_proj", [4, hidden]),
        ("self_attn.v_proj", [4, hidden]),
        ("self_attn.o_proj", [hidden, 8]),
        ("mlp.gate_proj", [intermediate, hidden]),
        ("mlp.up_proj", [intermediate, hidden]),
        ("mlp.down_proj", [hidden, intermediate]),
    ] {
        let name = format!("model.layers.0.{part}.weight");
        add(&name, Dtype::F8E4m3, &shape);
        add(&format!("{name}_scale_inv"), Dtype::F32, &[1, shape[1].div_ceil(16)]);
    }
    for part in ["input_layernorm", "post_attention_layernorm"] {
        add(&format!("model.layers.0.{part}.weight"), Dtype::F32, &[hidden]);
    }
    let plan = Plan::new(specs, u64::MAX).unwrap();
    let shard = &plan.shards[0];
    let mut file = shard.head.clone();
    for info in &shard.header.tensors {
        // The bytes of a scale or norm are a small f32, those of a code 0.
        let value = [0x37_u8, 0x3c, 0x2d, 0x3b];
        file.extend((0..info.bytes()).map(|i| value[i as usize % 4]));
    }
    let bytes = file.len();
    let files = [("config.json".to_owned(), config.to_string().into_bytes()), (shard.file.clone(), file)];
    (MemorySource::new(files), bytes)
}

#[test]
fn scales_of_blocks_stay_scales_of_blocks() {
    let _alone = alone();
    let (source, bytes) = scaled_in_high_blocks();
    // Read by reference: the files themselves are no part of the peak.
    let source = Rc::new(source);
    let recipe = "models: [{model: a}]\nmerge_method: passthrough\ndtype: bfloat16\n";
    let mut sink = Nowhere::default();
    let peak = peak_bytes(|| {
        pollster::block_on(async {
            let parsed = Recipe::parse(recipe).unwrap();
            let model = parsed.models().remove(0);
            let parent = Parent::open(model, source.clone()).await.unwrap();
            let (cancelled, on_tensor) = (Rc::new(|| false), Box::new(|_: &_| ()));
            let options = MergeOptions::default();
            let merge =
                Merge::new(parsed, recipe, vec![parent], options, cancelled, on_tensor).await.unwrap();
            merge.write(&mut sink, &mut |_| ()).await.unwrap();
        });
    });
    println!("peak {peak} bytes for {bytes} bytes of FP8, {} of result", sink.bytes);
    assert!(sink.bytes as usize > 2 * (bytes - 2_000_000), "{}", sink.bytes);
    // A source in memory hands out copies, of neighbours together. Scales spread over rows would be more.
    assert!(peak < bytes + (4 << 20), "peak {peak} bytes");
}
