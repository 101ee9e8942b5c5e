//! FP8 parents: every layout merges as its dequantised twin.

use std::collections::BTreeMap;

use bise::checkpoint::source::MemorySource;
use bise::dtype::Dtype;
use bise::merge::MergeOptions;
use half::{bf16, f16};
use serde_json::{Value, json};

use super::checkpoints::{Files, Maker, Tensors, checkpoint, decode, encode};
use super::support::{files, plan};
use crate::common::Random;

/// How a layout stores the scales of a matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scales {
    None,
    /// Shape [], [1].
    Scalar(&'static [u64]),
    Row,
    Block(u64, u64),
}

struct Layout {
    name: &'static str,
    quantization: Value,
    codes: Dtype,
    suffix: &'static str,
    scale_dtype: Dtype,
    scales: Scales,
}

fn compressed(weights: Value) -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": null}},
    })
}

fn weights(strategy: &str, structure: Value) -> Value {
    json!({
        "num_bits": 8, "type": "float", "strategy": strategy, "symmetric": true, "block_structure": structure
    })
}

fn layouts() -> Vec<Layout> {
    let layout = |name, quantization, suffix, scale_dtype, scales| Layout {
        name,
        quantization,
        codes: Dtype::F8E4m3,
        suffix,
        scale_dtype,
        scales,
    };
    let (f32, f16, bf16) = (Dtype::F32, Dtype::F16, Dtype::Bf16);
    let fp8 = |block: Value| json!({"quant_method": "fp8", "weight_block_size": block});
    let modelopt = json!({"quant_method": "modelopt", "quant_algo": "FP8"});
    let fbgemm = json!({"quant_method": "fbgemm_fp8"});
    let tensor = compressed(weights("tensor", Value::Null));
    let channel = compressed(weights("channel", Value::Null));
    let block = compressed(weights("block", json!([3, 16])));
    let raw = |codes, name| Layout { codes, ..layout(name, Value::Null, "", f32, Scales::None) };
    vec![
        layout("compressed-tensors, tensor", tensor, "_scale", bf16, Scales::Scalar(&[1])),
        layout("compressed-tensors, channel", channel, "_scale", f16, Scales::Row),
        layout("compressed-tensors, block", block, "_scale", f32, Scales::Block(3, 16)),
        layout("vLLM", fp8(Value::Null), "_scale", f32, Scales::Scalar(&[])),
        layout("block", fp8(json!([16, 32])), "_scale_inv", f32, Scales::Block(16, 32)),
        layout("scalar inv", fp8(Value::Null), "_scale_inv", bf16, Scales::Scalar(&[])),
        layout("fbgemm", fbgemm, "_scale", f32, Scales::Row),
        layout("ModelOpt", modelopt, "_scale", f32, Scales::Scalar(&[])),
        raw(Dtype::F8E4m3, "raw E4M3"),
        raw(Dtype::F8E5m2, "raw E5M2"),
    ]
}

/// The value of a code by the formats' definitions; `None` where it is no finite number.
fn value(dtype: Dtype, code: u8) -> Option<f32> {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let magnitude = code & 0x7f;
    if dtype == Dtype::F8E5m2 {
        // The high byte of an f16.
        let value = f16::from_bits(u16::from(code) << 8).to_f32();
        return value.is_finite().then_some(value);
    }
    let (exponent, mantissa) = (i32::from(magnitude >> 3), f32::from(magnitude & 7));
    let absolute = match exponent {
        _ if magnitude == 0x7f => return None,
        0 => mantissa * 2.0_f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2.0_f32.powi(exponent - 7),
    };
    Some(sign * absolute)
}

/// A checkpoint in that layout, and the same with its linear weights as f32.
fn pair(layout: &Layout, seed: u64) -> (Files, Files) {
    // Wider than a block, and no multiple of one.
    let maker = Maker { seed, hidden: 40, ..Maker::default() };
    let mut random = Random::new(seed * 7919);
    let (mut narrow, mut wide) = (Tensors::new(), Tensors::new());
    for (name, (dtype, shape, bytes)) in maker.tensors() {
        if !name.ends_with("_proj.weight") {
            narrow.insert(name.clone(), (dtype, shape.clone(), bytes.clone()));
            wide.insert(name, (dtype, shape, bytes));
            continue;
        }
        let (rows, cols) = (shape[0], shape[1]);
        let codes: Vec<u8> = std::iter::from_fn(|| {
            let code = random.next() as u8;
            Some(if value(layout.codes, code).is_some() { code } else { 0x38 })
        })
        .take((rows * cols) as usize)
        .collect();
        let (scale_shape, count): (Vec<u64>, u64) = match layout.scales {
            Scales::None => (vec![], 0),
            Scales::Scalar(shape) => (shape.to_vec(), 1),
            Scales::Row => (vec![rows, 1], rows),
            Scales::Block(height, width) => {
                let shape = [rows.div_ceil(height), cols.div_ceil(width)];
                (shape.to_vec(), shape.iter().product())
            }
        };
        // As a scale is stored, so it is meant.
        let scales: Vec<f32> = (0..count)
            .map(|_| {
                let scale = 0.01 + random.weight().abs();
                match layout.scale_dtype {
                    Dtype::Bf16 => bf16::from_f32(scale).to_f32(),
                    Dtype::F16 => f16::from_f32(scale).to_f32(),
                    _ => scale,
                }
            })
            .collect();
        let values: Vec<f32> = codes
            .iter()
            .enumerate()
            .map(|(i, code)| {
                let (row, col) = (i as u64 / cols, i as u64 % cols);
                let scale = match layout.scales {
                    Scales::None => 1.0,
                    Scales::Scalar(_) => scales[0],
                    Scales::Row => scales[row as usize],
                    Scales::Block(height, width) => {
                        scales[(row / height * cols.div_ceil(width) + col / width) as usize]
                    }
                };
                value(layout.codes, *code).unwrap() * scale
            })
            .collect();
        if count > 0 {
            let bytes = encode(layout.scale_dtype, &scales);
            narrow.insert(format!("{name}{}", layout.suffix), (layout.scale_dtype, scale_shape, bytes));
        }
        narrow.insert(name.clone(), (layout.codes, shape.clone(), codes));
        wide.insert(name, (Dtype::F32, shape, encode(Dtype::F32, &values)));
    }
    // What execution has no use for does not disturb a merge either.
    if layout.suffix == "_scale" {
        let input = "model.layers.0.mlp.up_proj.input_scale".to_owned();
        narrow.insert(input, (Dtype::F32, vec![1], encode(Dtype::F32, &[0.5])));
    }
    let mut config = maker.config();
    let plain = checkpoint(&config, &wide);
    if !layout.quantization.is_null() {
        config["quantization_config"] = layout.quantization.clone();
    }
    (checkpoint(&config, &narrow), plain)
}

/// A checkpoint whose linear weights are FP8 with one scale per block.
pub fn scaled_in_blocks(maker: &Maker, height: u64, width: u64) -> Files {
    let mut random = Random::new(maker.seed * 104_729);
    let mut tensors = Tensors::new();
    for (name, (dtype, shape, bytes)) in maker.tensors() {
        if !name.ends_with("_proj.weight") {
            tensors.insert(name, (dtype, shape, bytes));
            continue;
        }
        // Any code but NaN's.
        let codes =
            random.bytes((shape[0] * shape[1]) as usize).into_iter().map(|code| code & 0xbf).collect();
        let blocks = [shape[0].div_ceil(height), shape[1].div_ceil(width)];
        let scales: Vec<f32> = (0..blocks[0] * blocks[1]).map(|_| 0.01 + random.weight().abs()).collect();
        let scales = (Dtype::F32, blocks.to_vec(), encode(Dtype::F32, &scales));
        tensors.insert(format!("{name}_scale_inv"), scales);
        tensors.insert(name, (Dtype::F8E4m3, shape, codes));
    }
    let mut config = maker.config();
    config["quantization_config"] = json!({"quant_method": "fp8", "weight_block_size": [height, width]});
    checkpoint(&config, &tensors)
}

fn run(text: &str, models: &BTreeMap<String, Files>, chunk_elements: usize) -> Tensors {
    let options = MergeOptions { chunk_elements, ..MergeOptions::default() };
    let merge = plan(text, options, |name| MemorySource::new(models[name].clone()))
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    let files = files(&merge);
    let config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    assert_eq!(config.get("quantization_config"), None);
    decode(&files)
}

const RECIPES: [&str; 4] = [
    "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\ndtype: bfloat16\n",
    "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: b\nparameters: {t: 0.3}\ndtype: float32\n",
    "models: [{model: a}, {model: b}]\nmerge_method: linear\nparameters: {weight: 1}\ndtype: float16\nout_dtype: bfloat16\n",
    "models: [{model: a}]\nmerge_method: passthrough\nparameters: {scale: 0.5}\ndtype: float32\n",
];

#[test]
fn every_layout_merges_as_its_dequantised_twin() {
    let other = Maker { seed: 99, hidden: 40, ..Maker::default() }.files();
    let mut of_layouts = Vec::new();
    for (seed, layout) in layouts().into_iter().enumerate() {
        let (narrow, wide) = pair(&layout, seed as u64);
        for recipe in RECIPES {
            let models = |a: &Files| -> BTreeMap<String, Files> {
                [("a".to_owned(), a.clone()), ("b".to_owned(), other.clone())].into()
            };
            let found = run(recipe, &models(&narrow), 1 << 16);
            let expected = run(recipe, &models(&wide), 1 << 16);
            assert_eq!(
                found.keys().collect::<Vec<_>>(),
                expected.keys().collect::<Vec<_>>(),
                "{}",
                layout.name
            );
            for (name, expected) in &expected {
                assert!(found[name] == *expected, "{}: {name}\n{recipe}", layout.name);
            }
            // Scales follow their rows and blocks wherever a chunk ends.
            for chunk in [1, 3, 7] {
                assert!(run(recipe, &models(&narrow), chunk) == found, "{}: chunks of {chunk}", layout.name);
            }
            of_layouts.push(found);
        }
    }
    // Layouts have numbers of their own: had scales been left out, some would be alike.
    let distinct: std::collections::BTreeSet<String> = of_layouts
        .iter()
        .map(|tensors| format!("{:?}", tensors["model.layers.0.mlp.up_proj.weight"]))
        .collect();
    assert_eq!(distinct.len(), of_layouts.len());
}

#[test]
fn two_layouts_merge_with_one_another() {
    let layouts = layouts();
    let recipe = RECIPES[0];
    for (one, other) in [(1, 4), (2, 9), (8, 0)] {
        let (a, b) = (pair(&layouts[one], 1), pair(&layouts[other], 2));
        let models = |a: Files, b: Files| [("a".to_owned(), a), ("b".to_owned(), b)].into();
        let (found, expected) =
            (run(recipe, &models(a.0, b.0), 1 << 16), run(recipe, &models(a.1, b.1), 1 << 16));
        assert!(found == expected, "{} and {}", layouts[one].name, layouts[other].name);
    }
}

/// One model, as it is, with FP8 weights.
const COPY: &str = "models: [{model: a}]\nmerge_method: passthrough\n";

#[test]
fn a_copy_in_fp8_keeps_codes_and_scales_where_a_row_has_one() {
    let mut kept = 0;
    for (seed, layout) in layouts().into_iter().enumerate() {
        let (narrow, _) = pair(&layout, seed as u64);
        let parent = decode(&narrow);
        for chunk_elements in [1, 1 << 16] {
            let options = MergeOptions { quantize: true, chunk_elements, ..MergeOptions::default() };
            let result = decode(&files(&plan(COPY, options, |_| MemorySource::new(narrow.clone())).unwrap()));
            for (name, (_, shape, codes)) in &parent {
                if !name.ends_with("_proj.weight") {
                    continue;
                }
                let scales = super::checkpoints::numbers(&result[&format!("{name}_scale")]);
                let (dtype, _, found) = &result[name];
                assert_eq!(*dtype, Dtype::F8E4m3);
                let own =
                    parent.get(&format!("{name}{}", layout.suffix)).filter(|(dtype, ..)| !dtype.is_f8());
                let own = own.map(super::checkpoints::numbers);
                let expected: Vec<f32> = match (layout.codes, layout.scales, own) {
                    (Dtype::F8E4m3, Scales::None, _) => vec![1.0; shape[0] as usize],
                    (Dtype::F8E4m3, Scales::Scalar(_), Some(own)) => vec![own[0]; shape[0] as usize],
                    (Dtype::F8E4m3, Scales::Row, Some(own)) => own,
                    (Dtype::F8E4m3, Scales::Block(height, width), Some(own)) if width >= shape[1] => {
                        (0..shape[0]).map(|row| own[(row / height) as usize]).collect()
                    }
                    _ => {
                        // Another format, or several scales in a row: quantised anew.
                        assert!(found != codes, "{}: {name}", layout.name);
                        continue;
                    }
                };
                assert_eq!(scales, expected, "{}: {name}", layout.name);
                assert!(found == codes, "{}: {name}", layout.name);
                kept += 1;
            }
        }
    }
    assert!(kept > 0);
}

#[test]
fn without_dtype_the_result_has_the_checkpoints_own() {
    // The linear weights of a quantised checkpoint are meant in its dtype, not in FP8.
    let (narrow, _) = pair(&layouts()[1], 3);
    let models = [("a".to_owned(), narrow)].into();
    let result = run(COPY, &models, 1 << 16);
    assert!(result.values().all(|(dtype, ..)| *dtype == Dtype::Bf16));
}

#[test]
fn quantised_output_decodes_to_the_wide_one() {
    let models: BTreeMap<String, Files> = [1, 2]
        .map(|seed| (["a", "b"][seed as usize - 1].to_owned(), Maker { seed, ..Maker::default() }.files()))
        .into();
    let options = |quantize| MergeOptions { quantize, ..MergeOptions::default() };
    let open = |name: &str| MemorySource::new(models[name].clone());
    let wide = decode(&files(&plan(RECIPES[0], options(false), open).unwrap()));
    let merge = plan(RECIPES[0], options(true), open).unwrap();
    let quantized = files(&merge);
    let narrow = decode(&quantized);
    let mut checked = 0;
    for (name, tensor) in &wide {
        if !name.ends_with("_proj.weight") {
            assert!(narrow[name] == *tensor, "{name}");
            continue;
        }
        let (_, shape, codes) = &narrow[name];
        let scales = super::checkpoints::numbers(&narrow[&format!("{name}_scale")]);
        let values = super::checkpoints::numbers(tensor);
        for (row, scale) in scales.iter().enumerate() {
            let cols = shape[1] as usize;
            let range = row * cols..(row + 1) * cols;
            let largest = values[range.clone()].iter().map(|v| v.abs()).fold(0.0, f32::max);
            assert_eq!(*scale, largest / 448.0, "{name}, row {row}");
            for (code, wide) in codes[range.clone()].iter().zip(&values[range]) {
                let decoded = value(Dtype::F8E4m3, *code).unwrap() * scale;
                // Half a step: 2^-4 of the value, or of the smallest normal.
                let bar = wide.abs().max(scale * 2.0_f32.powi(-6)) * 0.0626;
                assert!((decoded - wide).abs() <= bar, "{name}: {decoded} for {wide}");
                checked += 1;
            }
        }
    }
    assert!(checked > 900, "{checked}");
    // Merged again, it is a parent like any other.
    let again: BTreeMap<String, Files> = [("a".to_owned(), quantized)].into();
    let result = run("models: [{model: a}]\nmerge_method: passthrough\ndtype: float32\n", &again, 5);
    assert_eq!(result.len(), wide.len());
}
