//! What a device's limits do not hold is refused before weights are read, with numbers and what to do.

use bise::engine::{CacheForm, Engine, LoadOptions, WeightMode, inspect};
use bise::gpu::{DeviceTier, LimitChoice};
use pollster::block_on;

use crate::common::synthetic::SyntheticSource;
use crate::support::webgpu;

const CONFIG: &str = r#"{
    "model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_act": "silu",
    "hidden_size": 64, "intermediate_size": 8192, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 500, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "sliding_window": null, "max_position_embeddings": 4096, "tie_word_embeddings": false
}"#;

/// Bytes that may be read of each file: its header, and what comes along with it.
const HEADER_BYTES: u64 = 64 << 10;

#[test]
fn limits_are_met_before_weights_are_read() {
    for (binding, context, code, said) in [
        (
            10_000,
            None,
            "out-of-memory",
            "needs 32768 bytes in one buffer and this device binds at most 10000",
        ),
        (40_000, Some(4096), "bad-request", "the buffers of this device hold the keys of 625 at most"),
    ] {
        let source = SyntheticSource::new(CONFIG, 2);
        let options = LoadOptions {
            weights: WeightMode::Checkpoint,
            context_length: context,
            ..webgpu(LimitChoice::Binding(binding))
        };
        let error = block_on(Engine::load(&source, &options, &mut |_| (), &|| false)).err().unwrap();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(said), "{error}");
        let read = source.served_bytes.get();
        assert!(
            read < 3 * HEADER_BYTES && source.total_bytes() > 12 * HEADER_BYTES,
            "{read} bytes were read"
        );

        // Without a device the same is told, beforehand.
        let tier = block_on(DeviceTier::probe(&options.gpu)).unwrap();
        let problems = block_on(inspect(&source, &options, Some(&tier))).unwrap().problems;
        assert!(!problems.is_empty());
    }
    let source = SyntheticSource::new(CONFIG, 2);
    let options = webgpu(LimitChoice::Binding(40_000));
    let mut engine = block_on(Engine::load(&source, &options, &mut |_| (), &|| false)).unwrap();
    assert_eq!(engine.info().context_length, 625);
    assert!(block_on(engine.logits(&[1, 2, 3])).unwrap().iter().all(|logit| logit.is_finite()));

    // Keys of 16 in FP8 take 24 bytes instead of 32; what is foretold is what is taken.
    let options = LoadOptions { kv_cache: CacheForm::F8, ..options };
    let tier = block_on(DeviceTier::probe(&options.gpu)).unwrap();
    let told = block_on(inspect(&source, &options, Some(&tier))).unwrap();
    let mut engine = block_on(Engine::load(&source, &options, &mut |_| (), &|| false)).unwrap();
    let info = engine.info();
    assert_eq!((info.context_length, told.context_length, info.kv_cache), (833, 833, CacheForm::F8));
    assert_eq!((info.memory.kv_cache, told.kv_cache_bytes), (3 * 2 * 833 * 48, 3 * 2 * 833 * 48));
    assert!(block_on(engine.logits(&[1, 2, 3])).unwrap().iter().all(|logit| logit.is_finite()));
}
