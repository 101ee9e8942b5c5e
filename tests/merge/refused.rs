//! What the plan refuses: recipes that are sound by themselves, but not for these models.

use std::collections::BTreeMap;

use bise::checkpoint::source::MemorySource;
use bise::merge::{MergeError, MergeOptions};
use serde_json::{Value, json};

use super::checkpoints::{Files, Maker, checkpoint, decode};
use super::support::{files, plan, tensors};

type Models = BTreeMap<String, Files>;

fn try_plan(text: &str, models: &Models) -> Result<(Files, Vec<String>), MergeError> {
    let open = |name: &str| MemorySource::new(models.get(name).cloned().unwrap_or_default());
    let merge = plan(text, MergeOptions::default(), open)?;
    let warnings = merge.warnings();
    Ok((files(&merge), warnings))
}

#[track_caller]
fn refused(text: &str, models: &Models, place: &str, words: &[&str]) {
    match try_plan(text, models) {
        Err(MergeError::Recipe { place: found, message }) => {
            assert_eq!(found, place, "{message}\n{text}");
            for word in words {
                assert!(message.contains(word), "{message:?} lacks {word:?}\n{text}");
            }
        }
        Err(other) => panic!("{other}\n{text}"),
        Ok(_) => panic!("accepted:\n{text}"),
    }
}

fn two(a: Maker, b: Maker) -> Models {
    [("a".to_owned(), a.files()), ("b".to_owned(), b.files())].into()
}

fn sibling(seed: u64) -> Maker {
    Maker { seed, ..Maker::default() }
}

/// A model whose config.json says otherwise.
fn with_config(maker: &Maker, key: &str, value: Value) -> Files {
    let mut config = maker.config();
    config[key] = value;
    checkpoint(&config, &maker.tensors())
}

const SLERP: &str =
    "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n";

#[test]
fn another_number_of_layers() {
    let models = two(sibling(1), Maker { layers: 3, ..sibling(2) });
    refused(SLERP, &models, "line 1: models[1]", &["b gives 3 layers, but a gives 2", "the same number"]);
    // Ranges make them fit.
    let text = "slices:\n- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}]\n\
                merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n";
    try_plan(text, &models).unwrap();
}

#[test]
fn layers_beyond_the_model() {
    let models = two(sibling(1), sibling(2));
    let text = "slices:\n- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}]\n\
                merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n";
    refused(text, &models, "line 2: slices[0].sources[1]", &["ends at 3", "b has 2 layers", "at most 2"]);
    // The result of an earlier document has as many as it was given.
    let chain = "name: long\nslices:\n\
                 - sources: [{model: a, layer_range: [0, 2]}]\n\
                 - sources: [{model: b, layer_range: [0, 1]}]\n\
                 merge_method: passthrough\n---\n\
                 slices:\n- sources: [{model: long, layer_range: [1, RANGE]}]\nmerge_method: passthrough\n";
    try_plan(&chain.replace("RANGE", "3"), &models).unwrap();
    let place = "document 2, line 8: slices[0].sources[0]";
    refused(&chain.replace("RANGE", "4"), &models, place, &["ends at 4", "long has 3 layers"]);
}

#[test]
fn more_layers_than_any_model_has() {
    let models: Models = [("a".to_owned(), sibling(1).files())].into();
    let slices = "- sources: [{model: a, layer_range: [0, 2]}]\n".repeat(2049);
    let text = format!("slices:\n{slices}merge_method: passthrough\n");
    refused(&text, &models, "line 1", &["4098 layers", "at most 4096"]);
}

#[test]
fn other_shapes_and_vocabularies() {
    let models = two(sibling(1), Maker { vocab: 13, ..sibling(2) });
    let words = ["model.embed_tokens.weight is [11, 8] in a and [13, 8] in b", "the same vocabulary"];
    refused(SLERP, &models, "line 1", &words);
    let models = two(sibling(1), Maker { hidden: 12, ..sibling(2) });
    refused(SLERP, &models, "line 1", &["[11, 8] in a and [11, 12] in b"]);
    // In a matrix of a layer: the slice that it belongs to.
    let wide = sibling(2);
    let mut config = wide.config();
    config["intermediate_size"] = json!(16);
    let mut tensors = wide.tensors();
    for (name, (dtype, shape, bytes)) in &mut tensors {
        let at = if name.contains("down_proj") { 1 } else { 0 };
        if name.contains(".mlp.") {
            shape[at] = 16;
            bytes.resize((shape.iter().product::<u64>() * dtype.size_bytes()) as usize, 0);
        }
    }
    let models: Models =
        [("a".to_owned(), sibling(1).files()), ("b".to_owned(), checkpoint(&config, &tensors))].into();
    let text = "slices:\n\
                - sources: [{model: a, layer_range: [0, 1]}]\n\
                - sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]\n\
                merge_method: linear\nparameters: {weight: 1}\n";
    let words = ["model.layers.1.mlp.gate_proj.weight is [12, 8] in a and [16, 8] in b"];
    refused(text, &models, "line 3: slices[1]", &words);
    // Stacked, nothing is combined, but the result would be no model.
    let stacked = "slices:\n\
                   - sources: [{model: a, layer_range: [0, 1]}]\n\
                   - sources: [{model: b, layer_range: [1, 2]}]\n\
                   merge_method: passthrough\n";
    let words =
        ["model.layers.1.mlp.gate_proj.weight would be [16, 8]", "config.json, which is a's", "[12, 8]"];
    refused(stacked, &models, "line 3: slices[1]", &words);
    // A vocabulary for the way in and another for the way out.
    let models = two(sibling(1), Maker { vocab: 13, ..sibling(2) });
    let words = ["lm_head.weight would be [13, 8]", "[11, 8]"];
    refused(stacked, &models, "line 3: slices[1]", &words);
}

#[test]
fn other_heads_and_architectures() {
    let base = sibling(1);
    for (key, value, words) in [
        ("num_attention_heads", json!(4), ["num_attention_heads is 4 in b and 2 in a", "one architecture"]),
        ("num_key_value_heads", json!(2), ["num_key_value_heads is 2 in b and 1 in a", "one architecture"]),
    ] {
        // The same shapes, read as other heads.
        let mut config = sibling(2).config();
        config[key] = value;
        let mut tensors = sibling(2).tensors();
        let width = |heads: &str| config[heads].as_u64().unwrap() * config["head_dim"].as_u64().unwrap();
        for (name, (dtype, shape, bytes)) in &mut tensors {
            let resized = match name {
                name if name.contains("q_proj") => vec![width("num_attention_heads"), 8],
                name if name.contains("o_proj") => vec![8, width("num_attention_heads")],
                name if name.contains("k_proj") || name.contains("v_proj") => {
                    vec![width("num_key_value_heads"), 8]
                }
                _ => continue,
            };
            bytes.resize((resized.iter().product::<u64>() * dtype.size_bytes()) as usize, 0);
            *shape = resized;
        }
        let models: Models =
            [("a".to_owned(), base.files()), ("b".to_owned(), checkpoint(&config, &tensors))].into();
        refused(SLERP, &models, "line 1: models[1]", &words);
    }
    let llama = with_config(&sibling(2), "model_type", json!("llama"));
    let models: Models = [("a".to_owned(), base.files()), ("b".to_owned(), llama)].into();
    refused(SLERP, &models, "line 1: models[1]", &["model_type is llama in b and mistral in a"]);
    // Two heads of four as one of eight: no shape tells.
    let mut config = sibling(2).config();
    config["head_dim"] = json!(2);
    config["num_attention_heads"] = json!(4);
    config["num_key_value_heads"] = json!(2);
    let b = checkpoint(&config, &sibling(2).tensors());
    let models: Models = [("a".to_owned(), base.files()), ("b".to_owned(), b)].into();
    refused(SLERP, &models, "line 1: models[1]", &["num_attention_heads is 4 in b and 2 in a"]);
}

#[test]
fn settings_that_steer_the_computation_are_warned_of() {
    for (key, value, words) in [
        ("rope_theta", json!(1e6), "rope_theta is 1000000 in b and 10000 in a"),
        ("rms_norm_eps", json!(0.001), "rms_norm_eps is 0.001 in b and 0.000001 in a"),
        ("rope_parameters", json!({"rope_theta": 5e5}), "rope_theta is 500000 in b and 10000 in a"),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": 2}),
            "rope_scaling is linear by 2 in b and none in a",
        ),
        (
            "rope_parameters",
            json!({
                "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                "original_max_position_embeddings": 8192
            }),
            "rope_scaling is llama3 by 8 (low_freq_factor 1, high_freq_factor 4, \
             original_max_position_embeddings 8192) in b and none in a",
        ),
        ("sliding_window", Value::Null, "sliding_window is none in b and 4096 in a"),
    ] {
        let b = with_config(&sibling(2), key, value);
        let models: Models = [("a".to_owned(), sibling(1).files()), ("b".to_owned(), b)].into();
        let (_, warnings) = try_plan(SLERP, &models).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(words) && warnings[0].contains("takes the latter"), "{warnings:?}");
    }
    let (_, warnings) = try_plan(SLERP, &two(sibling(1), sibling(2))).unwrap();
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn a_filter_that_leaves_tensors_without_a_value() {
    let models = two(sibling(1), sibling(2));
    let words = ["no `t` applies to model.embed_tokens.weight", "add a value without filter"];
    let text = SLERP.replace("0.5", "[{filter: self_attn, value: 1}, {filter: mlp, value: 0}]");
    refused(&text, &models, "line 1", &words);
    let text = SLERP.replace("0.5", "[{filter: embed, value: 1}, {filter: mlp, value: 0}]");
    refused(&text, &models, "line 1", &["no `t` applies to model.layers.0.input_layernorm.weight"]);
    // A slice with a t of its own for some falls back to the document's, and then to nothing.
    let text = "slices:\n\
                - {sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}], parameters: {t: 1}}\n\
                - sources: [{model: a, layer_range: [1, 2]}, {model: b, layer_range: [1, 2]}]\n\
                merge_method: slerp\nbase_model: a\nparameters: {t: {filter: layernorm, value: 0}}\n";
    refused(
        text,
        &models,
        "line 3: slices[1]",
        &["no `t` applies to model.layers.1.self_attn.q_proj.weight"],
    );
    // linear: of which model.
    let text = "models: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: {filter: mlp, value: 1}}}]\n\
                merge_method: linear\n";
    refused(text, &models, "line 1", &["no `weight` applies to model.embed_tokens.weight of b"]);
}

#[test]
fn a_head_that_only_one_of_them_has() {
    let (tied, untied) = (Maker { tied: true, ..sibling(1) }, sibling(2));
    for base in ["a", "b"] {
        let text = SLERP.replace("base_model: a", &format!("base_model: {base}"));
        let models = two(tied.clone(), untied.clone());
        let (files, warnings) = try_plan(&text, &models).unwrap();
        let warned = "tie_word_embeddings is true in a and false in b; a head that only one";
        assert!(warnings.len() == 1 && warnings[0].contains(warned), "{warnings:?}");
        // It is passed through, and config.json says that the result has one.
        let result = decode(&files);
        assert_eq!(result["lm_head.weight"].2, decode(&models["b"])["lm_head.weight"].2);
        let config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
        assert_eq!(config["tie_word_embeddings"], false, "{base}");
    }
    // Absent everywhere, it is skipped.
    let models = two(tied.clone(), Maker { tied: true, ..sibling(2) });
    let (files, _) = try_plan(SLERP, &models).unwrap();
    assert!(!decode(&files).contains_key("lm_head.weight"));
    let config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    assert_eq!(config["tie_word_embeddings"], true);
}

#[test]
fn models_that_cannot_be_read() {
    let mut models = two(sibling(1), sibling(2));
    let source_error = |models: &Models, words: &[&str]| match try_plan(SLERP, models) {
        Err(error @ MergeError::Source { .. }) => {
            let text = error.to_string();
            assert!(text.starts_with("b: "), "{text}");
            words.iter().for_each(|word| assert!(text.contains(word), "{text} lacks {word}"));
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    };
    let mut broken = models.clone();
    broken.remove("b");
    source_error(&broken, &["config.json", "not found"]);
    broken = models.clone();
    broken.get_mut("b").unwrap().remove("model.safetensors");
    source_error(&broken, &["no weights found", "model.safetensors"]);
    let mut tensors = sibling(2).tensors();
    tensors.remove("model.layers.1.mlp.up_proj.weight");
    models.insert("b".into(), checkpoint(&sibling(2).config(), &tensors));
    source_error(&models, &["model.layers.1.mlp.up_proj.weight"]);
    models.insert("b".into(), with_config(&sibling(2), "model_type", json!("mamba")));
    source_error(&models, &["mamba"]);
}

#[test]
fn results_that_overflow_their_precision() {
    // 40000 + 40000 is no float16.
    let mut tensors = sibling(1).tensors();
    let name = "model.layers.1.mlp.down_proj.weight";
    let (dtype, _, bytes) = tensors.get_mut(name).unwrap();
    *bytes = super::checkpoints::encode(*dtype, &vec![40000.0; bytes.len() / 2]);
    let model = checkpoint(&sibling(1).config(), &tensors);
    let models: Models = [("a".to_owned(), model)].into();
    let text = "models: [{model: a}]\nmerge_method: passthrough\nparameters: {scale: 2}\ndtype: float16\n";
    let open = |name: &str| MemorySource::new(models[name].clone());
    let merge = plan(text, MergeOptions::default(), open).unwrap();
    let mut sink = bise::checkpoint::sink::MemorySink::default();
    let error = pollster::block_on(merge.write(&mut sink, &mut |_| ())).unwrap_err().to_string();
    assert!(
        error.contains(name) && error.contains("does not fit F16") && error.contains("wider range"),
        "{error}"
    );
    assert!(!sink.files.contains_key("config.json"));
}

/// Every document and model costs memory in each chunk: what goes beyond any merge is refused as it is
/// read, and what comes near it is done.
#[test]
fn recipes_beyond_any_merge() {
    let chain = |documents: usize| {
        let mut text = "name: d0\nmodels: [{model: a}]\nmerge_method: passthrough\n".to_owned();
        for i in 1..documents {
            let name = if i + 1 < documents { format!("name: d{i}\n") } else { String::new() };
            text += &format!("---\n{name}models: [{{model: d{}}}]\nmerge_method: passthrough\n", i - 1);
        }
        text
    };
    let models: Models = [("a".to_owned(), sibling(1).files())].into();
    let (merged, _) = try_plan(&chain(64), &models).unwrap();
    assert!(tensors(&merged) == tensors(&models["a"]), "a chain of copies is a copy");
    match try_plan(&chain(3000), &models) {
        Err(MergeError::Recipe { message, .. }) => assert!(message.contains("3000 documents"), "{message}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
    // More models than a browser keeps connections to one host: read in turns, with the same result.
    let many: Models = (0..9).map(|i| (format!("m{i}"), sibling(i + 1).files())).collect();
    let list = |range: std::ops::Range<usize>, weight: &str| {
        range.map(|i| format!("  - {{model: m{i}, parameters: {{weight: {weight}}}}}\n")).collect::<String>()
    };
    let rest = "merge_method: linear\nparameters: {normalize: false}\ndtype: float32\n";
    let (first, _) =
        try_plan(&format!("models:\n{}{}{rest}", list(0..1, "1"), list(1..9, "0")), &many).unwrap();
    let (alone, _) = try_plan(&format!("models:\n{}{rest}", list(0..1, "1")), &many).unwrap();
    assert!(tensors(&first) == tensors(&alone), "eight models of no weight change nothing");
}
