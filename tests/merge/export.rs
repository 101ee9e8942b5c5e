//! Models as FP8 checkpoints: what a load leaves on the device of an export, and of what was exported.

use std::collections::BTreeMap;
use std::rc::Rc;

use bise::checkpoint::source::{FileSource, MemorySource};
use bise::checkpoint::{ByteSource, Manifest};
use bise::dtype::Dtype;
use bise::merge::{Merge, MergeError, MergeOptions, ModelRef, Parent};
use bise::model::Precision;
use half::bf16;
use pollster::block_on;
use serde_json::{Value, json};

use super::checkpoints::{Files, Maker, Tensors, checkpoint, decode, encode, numbers};
use super::golden::sha256;
use super::support::{embedded, files, fixture, tensors};
use crate::common::layouts::{Layout, Made, Share, decode as value, layouts, make};
use crate::common::recorder::recorded;

fn planned<S: ByteSource + Clone + 'static>(
    source: &S,
    options: MergeOptions,
) -> Result<Merge<S>, MergeError> {
    let options = MergeOptions { quantize: true, ..options };
    let name = ModelRef { path: "it".into(), revision: None };
    block_on(async {
        let parent = Parent::open(name, source.clone()).await?;
        Merge::copy(parent, options, Rc::new(|| false), Box::new(|_| ())).await
    })
}

fn export<S: ByteSource + Clone + 'static>(source: &S) -> Files {
    files(&planned(source, MergeOptions::default()).unwrap())
}

/// What of the device differs between a load of `source` as FP8 and one of its export, in either mode.
fn same_on_the_device<S: ByteSource + Clone + 'static>(source: &S, exported: &Files) -> bool {
    let exported = MemorySource::new(exported.clone());
    let original = recorded(source, Precision::F8);
    let as_stored = recorded(&exported, Precision::Checkpoint);
    assert!(as_stored == recorded(&exported, Precision::F8));
    original == as_stored
}

/// Rows that quantising treats in ways of their own: zeros of both signs, subnormal numbers, the largest.
fn odd_rows(dtype: Dtype, tensors: &mut Tensors) {
    let (_, shape, bytes) = tensors.get_mut("model.layers.0.mlp.gate_proj.weight").unwrap();
    let (tiny, largest) = match dtype {
        Dtype::F16 => (6e-8, 65504.0),
        _ => (1e-40, 3e38),
    };
    let mut values = vec![0.0; (shape[0] * shape[1]) as usize];
    let rows = [[0.0, -0.0], [-0.0, -0.0], [tiny, -tiny], [-largest, tiny], [largest, 1.0], [448.0, -1.0]];
    for (row, pair) in values.chunks_exact_mut(shape[1] as usize).zip(rows) {
        row.iter_mut().zip(pair.into_iter().cycle()).for_each(|(value, odd)| *value = odd);
    }
    *bytes = encode(dtype, &values);
}

#[test]
fn what_the_engine_quantises_comes_back_bit_for_bit() {
    for (seed, dtype) in [Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::F64].into_iter().enumerate() {
        for tied in [false, true] {
            let maker = Maker { seed: seed as u64, dtype, tied, hidden: 40, ..Maker::default() };
            let mut tensors = maker.tensors();
            odd_rows(dtype, &mut tensors);
            let source = MemorySource::new(checkpoint(&maker.config(), &tensors));
            for chunk_elements in [1, 1 << 16] {
                let options = MergeOptions { chunk_elements, ..MergeOptions::default() };
                let exported = files(&planned(&source, options).unwrap());
                assert!(same_on_the_device(&source, &exported), "{dtype}, tied: {tied}, seed {seed}");
            }
            // It is another model on the device without FP8, so it was quantised.
            let wide = recorded(&source, Precision::Checkpoint);
            assert!(wide != recorded(&MemorySource::new(export(&source)), Precision::Checkpoint));
        }
    }
    for name in ["tale", "case"] {
        let source = embedded(name);
        assert!(same_on_the_device(&source, &export(&source)), "{name}");
    }
}

/// What browsers are held against: they export the same bits.
#[test]
fn the_recorded_hashes_are_those_of_this_export() {
    let found = tensors(&export(&embedded("tale"))).into_iter();
    let found = found.map(|(name, bytes)| (name, sha256(&bytes).into()));
    let recorded: Value = serde_json::from_str(&fixture("vectors/exported_tale.json")).unwrap();
    assert_eq!(Value::Object(found.collect()), recorded["tensor_sha256"]);
}

/// Negative control: one code, one scale and one norm that differ by their last bit are noticed.
#[test]
fn a_bit_more_or_less_is_noticed() {
    let source = MemorySource::new(Maker::default().files());
    let exported = export(&source);
    let config = serde_json::from_slice(&exported["config.json"]).unwrap();
    let tensors = decode(&exported);
    assert!(same_on_the_device(&source, &checkpoint(&config, &tensors)));
    for name in [
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight_scale",
        "model.layers.0.input_layernorm.weight",
        "lm_head.weight",
    ] {
        let mut damaged = tensors.clone();
        let (_, _, bytes) = damaged.get_mut(name).unwrap();
        bytes[0] ^= 1;
        assert!(!same_on_the_device(&source, &checkpoint(&config, &damaged)), "{name}");
    }
}

/// Whether an FP8 tensor can be stored by rows as it is.
fn is_by_rows(layout: &Layout, name: &str) -> bool {
    (layout.of)(name).is_some_and(|stored| {
        stored.dtype == Dtype::F8E4m3 && !matches!(stored.share, Share::Block(..)) && name.contains("_proj.")
    })
}

#[test]
fn fp8_keeps_codes_and_scales_or_is_rounded_once() {
    let (mut kept, mut anew) = (0, 0);
    for layout in layouts() {
        let Made { fp8, wide, .. } = make(&layout, None);
        let merge = planned(&fp8, MergeOptions::default()).unwrap();
        let warnings = merge.warnings();
        let exported = files(&merge);
        let (result, parent) = (decode(&exported), decode(&fp8.files));
        let manifest = block_on(Manifest::read(&wide)).unwrap();
        let (mut rounded, mut widened) = (0, 0);
        for (_, info) in manifest.tensors() {
            let name = &info.name;
            let exact = block_on(manifest.read_f32(&wide, name, u64::MAX, &|| false)).unwrap();
            let (dtype, shape, bytes) = &result[name];
            assert_eq!(*shape, info.shape, "{}: {name}", layout.name);
            let stored = (layout.of)(name);
            if !name.contains("_proj.") {
                // What was wide is as it was; FP8 is rounded to the checkpoint's own type.
                let expected: Vec<f32> = exact.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
                assert_eq!(*dtype, Dtype::Bf16, "{}: {name}", layout.name);
                assert!(numbers(&result[name]) == expected, "{}: {name}", layout.name);
                widened += usize::from(stored.is_some());
                continue;
            }
            assert_eq!(*dtype, Dtype::F8E4m3, "{}: {name}", layout.name);
            let cols = shape[1] as usize;
            let scales = numbers(&result[&format!("{name}_scale")]);
            assert_eq!(scales.len(), shape[0] as usize);
            let decoded = |at: usize| value(Dtype::F8E4m3, bytes[at]) * scales[at / cols];
            if is_by_rows(&layout, name) {
                assert!(*bytes == parent[name].2, "{}: {name} has other codes", layout.name);
                // Exactly the numbers that it stood for.
                assert!(exact.iter().enumerate().all(|(at, v)| *v == decoded(at)), "{}: {name}", layout.name);
                kept += 1;
                continue;
            }
            for (row, values) in exact.chunks_exact(cols).enumerate() {
                let largest = values.iter().map(|v| v.abs()).fold(0.0, f32::max);
                assert_eq!(scales[row], largest / 448.0, "{}: {name}, row {row}", layout.name);
                for (col, v) in values.iter().enumerate() {
                    // Half a step: 2^-4 of the value, or of the smallest normal.
                    let bar = v.abs().max(scales[row] * 2.0_f32.powi(-6)) * 0.0626;
                    let found = decoded(row * cols + col);
                    assert!((found - v).abs() <= bar, "{}: {name}: {found} for {v}", layout.name);
                }
            }
            rounded += usize::from(stored.is_some());
            anew += 1;
        }
        // Whatever was rounded once more is said, and nothing else.
        let says = |what: &str| warnings.iter().any(|warning| warning.contains(what));
        assert_eq!(says(&format!("{rounded} FP8 tensors")), rounded > 0, "{}: {warnings:?}", layout.name);
        assert_eq!(says(&format!("({widened} in all)")), widened > 0, "{}: {warnings:?}", layout.name);
        assert_eq!(warnings.len(), usize::from(rounded > 0) + usize::from(widened > 0), "{warnings:?}");
        // Scales by rows or tensors lie on the device as they did; a cast has none there, but ones here.
        if rounded + widened == 0 && !layout.name.contains("raw") {
            assert!(same_on_the_device(&fp8, &exported), "{}", layout.name);
        }
    }
    assert!(kept > 200 && anew > 200, "{kept} kept, {anew} quantised");
}

#[test]
fn an_export_of_an_export_is_the_same_files() {
    let sources = layouts().iter().map(|layout| make(layout, None).fp8).collect::<Vec<_>>();
    let first = sources.iter().map(export).chain([export(&embedded("tale"))]);
    for exported in first {
        assert!(export(&MemorySource::new(exported.clone())) == exported);
    }
    // In shards, too; other ones hold the same tensors.
    let options = || MergeOptions { shard_bytes: 500_000, ..MergeOptions::default() };
    let shards = files(&planned(&embedded("tale"), options()).unwrap());
    assert!(shards.len() > 10);
    assert!(files(&planned(&MemorySource::new(shards.clone()), options()).unwrap()) == shards);
    assert!(decode(&shards) == decode(&export(&embedded("tale"))));
}

/// A model of which one matrix has the codes and, for each row, the scale.
fn with_codes(dtype: Dtype, codes: &[u8], scale: impl Fn(u64) -> f32) -> (MemorySource, String) {
    let maker = Maker { hidden: 256, dtype, ..Maker::default() };
    let name = "model.layers.1.mlp.up_proj.weight".to_owned();
    let mut tensors = maker.tensors();
    let shape = tensors[&name].1.clone();
    let all: Vec<u8> = codes.iter().copied().cycle().take((shape[0] * shape[1]) as usize).collect();
    let scales: Vec<f32> = (0..shape[0]).map(scale).collect();
    tensors.insert(format!("{name}_scale"), (Dtype::F32, vec![shape[0], 1], encode(Dtype::F32, &scales)));
    tensors.insert(name.clone(), (Dtype::F8E4m3, shape, all));
    let mut config = maker.config();
    config["quantization_config"] = json!({"quant_method": "fbgemm_fp8"});
    (MemorySource::new(checkpoint(&config, &tensors)), name)
}

/// Decoded and encoded again, some would be lost: to a float16 in between, to zero, to infinity.
#[test]
fn every_code_survives_every_scale() {
    let codes: Vec<u8> = (0..=255).filter(|code| code & 0x7f != 0x7f).collect();
    let odd = [1.0, 1e-3, 1e-7, 0.0, -0.0, -0.5, 1e-42, 1e-30, 1e37, 3e38];
    for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32] {
        let (source, name) = with_codes(dtype, &codes, |row| odd[row as usize % odd.len()]);
        let (parent, result) = (decode(&source.files), decode(&export(&source)));
        for tensor in [name.clone(), format!("{name}_scale")] {
            assert!(parent[&tensor] == result[&tensor], "{dtype}: {tensor}");
        }
        assert!(same_on_the_device(&source, &export(&source)), "{dtype}");
    }
}

#[test]
fn what_is_no_number_is_refused() {
    let (nan, name) = with_codes(Dtype::Bf16, &[0x30, 0x7f], |_| 1.0);
    let (scale, _) = with_codes(Dtype::Bf16, &[0x30], |row| if row == 7 { f32::INFINITY } else { 1.0 });
    for (source, words) in
        [(nan, vec![name.clone(), "element 1".into()]), (scale, vec![format!("{name}_scale")])]
    {
        let merge = planned(&source, MergeOptions::default()).unwrap();
        let mut sink = bise::checkpoint::sink::MemorySink::default();
        let error = block_on(merge.write(&mut sink, &mut |_| ())).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)) && error.contains("it"), "{error}");
        assert!(!sink.files.contains_key("config.json"), "no checkpoint is left");
    }
    // What cannot be run cannot be saved either, and the message says what lies there instead.
    let empty = MemorySource::new([]);
    let error = planned(&empty, MergeOptions::default()).err().unwrap().to_string();
    assert!(error.contains("config.json"), "{error}");
    let gguf = MemorySource::new([("model-q4.gguf".to_owned(), b"GGUF".to_vec())]);
    let error = planned(&gguf, MergeOptions::default()).err().unwrap().to_string();
    assert!(error.contains("GGUF"), "{error}");
}

#[test]
fn the_config_is_what_vllm_and_transformers_expect() {
    let tale: Value = serde_json::from_slice(&std::fs::read("www/models/tale/config.json").unwrap()).unwrap();
    let mut expected = tale.clone();
    expected["dtype"] = "bfloat16".into();
    expected["quantization_config"] = json!({
        "quant_method": "compressed-tensors",
        "format": "naive-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8, "type": "float", "symmetric": true, "strategy": "channel", "dynamic": false
            },
            "input_activations": null,
            "output_activations": null,
        }},
        "ignore": ["lm_head"],
    });
    let of = |files: &Files| -> Value { serde_json::from_slice(&files["config.json"]).unwrap() };
    assert_eq!(of(&export(&embedded("tale"))), expected);
    // Whatever quantisation there was is gone.
    for layout in layouts() {
        let found = of(&export(&make(&layout, None).fp8));
        assert_eq!(found["quantization_config"], expected["quantization_config"], "{}", layout.name);
        assert_eq!(found["tie_word_embeddings"], layout.tied, "{}", layout.name);
    }
}

/// Names and content of a directory's files.
fn directory(source: &FileSource) -> BTreeMap<String, Vec<u8>> {
    let names = block_on(source.list());
    let read = |name: String| {
        let bytes = block_on(bise::checkpoint::source::read_all(source, &name, None, 1 << 30)).unwrap();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

#[test]
fn the_other_files_are_the_models_own() {
    let tale = directory(&embedded("tale"));
    let exported = export(&embedded("tale"));
    for (name, content) in &tale {
        if !name.ends_with(".safetensors") && !name.ends_with("index.json") && name != "config.json" {
            assert!(exported.get(name) == Some(content), "{name}");
        }
    }
    // Card, licence, recipe and template go along; nothing is made up where there is none.
    let plain = Maker::default().files();
    let made: Vec<String> = export(&MemorySource::new(plain.clone())).into_keys().collect();
    let weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(made, [&["config.json"], &weights[..], &["model.safetensors.index.json"]].concat());
    let more = ["README.md", "LICENSE", "mergekit_config.yml", "chat_template.json", "vocab.json"];
    let mut with = plain;
    with.extend(more.map(|name| (name.to_owned(), name.as_bytes().to_vec())));
    with.insert("notes.txt".into(), b"mine".to_vec());
    let exported = export(&MemorySource::new(with));
    for name in more {
        assert_eq!(exported[name], name.as_bytes(), "{name}");
    }
    assert!(!exported.contains_key("notes.txt"));
}

#[test]
fn the_report_has_every_tensor() {
    let layout = layouts().into_iter().find(|layout| layout.name == "fbgemm").unwrap();
    let Made { fp8, wide, .. } = make(&layout, None);
    let merge = planned(&fp8, MergeOptions::default()).unwrap();
    files(&merge);
    let report = merge.report();
    let manifest = block_on(Manifest::read(&wide)).unwrap();
    assert_eq!(report.tensors.len(), manifest.tensors().count());
    for tensor in &report.tensors {
        assert_eq!(tensor.sources, [format!("it: {}", tensor.tensor)]);
        assert_eq!((&*tensor.coefficients, &*tensor.distances), (&[1.0][..], &[0.0][..]));
        let values = block_on(manifest.read_f32(&wide, &tensor.tensor, u64::MAX, &|| false)).unwrap();
        let norm = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
        assert!((tensor.norms[0] - norm).abs() <= 1e-6 * norm, "{}: {:?}", tensor.tensor, tensor.norms);
    }
}
