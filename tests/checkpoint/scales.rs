//! Every FP8 layout of the formats page, and what is refused by name.

use bise::checkpoint::scales::{Granularity, Scales, WeightScale, check_count, spread};
use bise::checkpoint::{CheckpointError as E, TensorInfo};
use bise::dtype::Dtype;
use serde_json::{Value, json};

use crate::support::info;

const W: &str = "model.layers.0.mlp.up_proj.weight";
const F8: Dtype = Dtype::F8E4m3;

/// A 300 x 200 weight with a scale of that suffix, and tensors that are left wide.
fn with_scale(suffix: &str, dtype: Dtype, shape: &[u64]) -> Vec<TensorInfo> {
    let mut tensors = vec![
        info(W, F8, &[300, 200]),
        info("model.norm.weight", Dtype::Bf16, &[200]),
        info("lm_head.weight", Dtype::Bf16, &[1000, 200]),
    ];
    tensors.push(info(&format!("{W}{suffix}"), dtype, shape));
    tensors
}

fn find(config: &Value, tensors: &[TensorInfo]) -> Result<Scales, E> {
    Scales::find(&json!({ "model_type": "mistral", "quantization_config": config }), tensors)
}

fn assert_finds(config: Value, tensors: &[TensorInfo], suffix: &str, granularity: Granularity) {
    let scales = find(&config, tensors).unwrap();
    let expected = WeightScale { scale: Some(format!("{W}{suffix}")), granularity };
    assert_eq!(scales.weights, [(W.to_owned(), expected)].into(), "{config}");
}

fn compressed(weights: Value) -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": null}},
    })
}

fn weights(strategy: &str) -> Value {
    json!({"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": true, "block_structure": null})
}

#[test]
fn compressed_tensors_layouts() {
    for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
        let tensors = with_scale("_scale", dtype, &[1]);
        assert_finds(compressed(weights("tensor")), &tensors, "_scale", Granularity::Tensor);
        let tensors = with_scale("_scale", dtype, &[300, 1]);
        assert_finds(compressed(weights("channel")), &tensors, "_scale", Granularity::Row);
        for structure in [json!([128, 64]), json!("128x64")] {
            let mut config = compressed(weights("block"));
            config["config_groups"]["group_0"]["weights"]["block_structure"] = structure;
            let tensors = with_scale("_scale", dtype, &[3, 4]);
            let block = Granularity::Block { rows: 128, cols: 64 };
            assert_finds(config, &tensors, "_scale", block);
        }
    }
    let mut naive = compressed(weights("channel"));
    naive["format"] = json!("naive-quantized");
    assert_finds(naive.clone(), &with_scale("_scale", Dtype::F32, &[300]), "_scale", Granularity::Row);
    // Once the config was kept under another key.
    let tensors = with_scale("_scale", Dtype::F32, &[300, 1]);
    assert_eq!(Scales::find(&json!({"compression_config": naive}), &tensors).unwrap().weights.len(), 1);
}

#[test]
fn other_layouts() {
    let scalar = Granularity::Tensor;
    let fp8 = json!({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]});
    assert_finds(fp8, &with_scale("_scale", Dtype::F32, &[]), "_scale", scalar);
    let block = json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]});
    let granularity = Granularity::Block { rows: 128, cols: 128 };
    assert_finds(block, &with_scale("_scale_inv", Dtype::F32, &[3, 2]), "_scale_inv", granularity);
    let scalar_inv = json!({"quant_method": "fp8", "weight_block_size": null});
    assert_finds(scalar_inv, &with_scale("_scale_inv", Dtype::Bf16, &[]), "_scale_inv", scalar);
    let fbgemm = json!({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]});
    assert_finds(fbgemm, &with_scale("_scale", Dtype::F32, &[300, 1]), "_scale", Granularity::Row);
    for algorithm in [json!({"quant_algo": "FP8"}), json!({"quantization": {"quant_algo": "FP8"}})] {
        let mut config = json!({"quant_method": "modelopt"});
        config.as_object_mut().unwrap().extend(algorithm.as_object().unwrap().clone());
        assert_finds(config, &with_scale("_scale", Dtype::F32, &[]), "_scale", scalar);
    }
}

#[test]
fn raw_casts_have_scale_one_unless_a_scale_is_there() {
    let raw = [info(W, F8, &[300, 200]), info("w", Dtype::F8E5m2, &[2])];
    for config in [json!({}), json!({"quantization_config": null})] {
        let scales = Scales::find(&config, &raw).unwrap();
        let one = WeightScale { scale: None, granularity: Granularity::Tensor };
        assert_eq!(scales.weights, [(W.to_owned(), one.clone()), ("w".to_owned(), one)].into());
        // Exports whose config lies in another file still carry their scales.
        let scales = Scales::find(&config, &with_scale("_scale", Dtype::F32, &[300, 1])).unwrap();
        assert_eq!(scales.weights[W].granularity, Granularity::Row);
    }
    let wide = [info("w", Dtype::Bf16, &[2, 2])];
    assert_eq!(Scales::find(&json!({}), &wide).unwrap(), Scales::default());
}

#[test]
fn activation_and_cache_scales_are_skipped() {
    let mut tensors = with_scale("_scale", Dtype::F32, &[]);
    let names = [
        "mlp.up_proj.input_scale",
        "mlp.up_proj.activation_scale",
        "self_attn.k_proj.k_scale",
        "self_attn.v_scale",
        "self_attn.kv_scale",
        "mlp.up_proj.input_scale_ub",
    ];
    let names = names.map(|name| format!("model.layers.0.{name}"));
    tensors.extend(names.iter().map(|name| info(name, Dtype::F32, &[1])));
    let scales = find(&json!({"quant_method": "modelopt", "quant_algo": "FP8"}), &tensors).unwrap();
    assert_eq!(scales.skip, names.into_iter().collect());
    assert_eq!(scales.weights.len(), 1);
}

#[test]
fn missing_scale() {
    for suffix in ["_other", ".scale"] {
        let error = find(&json!({"quant_method": "fp8"}), &with_scale(suffix, Dtype::F32, &[1])).unwrap_err();
        let looked_for = format!("{W}_scale, {W}_scale_inv");
        assert_eq!(error, E::MissingScale { tensor: W.into(), looked_for });
    }
}

#[test]
fn scale_shape() {
    let block = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    let cases = [(json!({"quant_method": "fp8"}), vec![3, 2]), (block, vec![2, 3])];
    for (config, shape) in cases.into_iter().chain([
        (json!({"quant_method": "fp8"}), vec![1, 300]),
        (json!({"quant_method": "fp8"}), vec![200, 1]),
        (json!({"quant_method": "fp8"}), vec![299]),
        (json!({"quant_method": "fp8"}), vec![0]),
    ]) {
        let error = find(&config, &with_scale("_scale_inv", Dtype::F32, &shape)).unwrap_err();
        assert!(
            matches!(&error, E::ScaleShape { shape: found, .. } if *found == shape),
            "{shape:?} {error:?}"
        );
        assert!(error.to_string().contains("expected [1], [300, 1]"), "{error}");
    }
}

#[test]
fn scale_dtype() {
    let config = json!({"quant_method": "fp8", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"});
    for dtype in [Dtype::F8E8m0, Dtype::I32, Dtype::F64] {
        let error = find(&config, &with_scale("_scale_inv", dtype, &[3, 2])).unwrap_err();
        assert_eq!(error, E::ScaleDtype { scale: format!("{W}_scale_inv"), dtype });
    }
}

/// Asserts that a config is refused for that key, and that the message quotes what it found.
fn assert_refused(config: &Value, key: &str, quoted: &str) {
    let error = find(config, &with_scale("_scale", Dtype::F32, &[1])).unwrap_err();
    assert!(matches!(&error, E::UnsupportedQuantization { key: found, .. } if found == key), "{error:?}");
    assert!(error.to_string().contains(quoted), "{error}");
}

#[test]
fn unsupported_quantization() {
    for method in ["gptq", "awq", "bitsandbytes", "mxfp4", "hqq", "quark"] {
        assert_refused(&json!({ "quant_method": method }), "quant_method", method);
    }
    assert_refused(&json!({}), "quant_method", "absent");
    assert_refused(&json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), "quant_algo", "NVFP4");
    for size in [json!([128]), json!([0, 128]), json!("x"), json!(128), json!([1.5, 2])] {
        assert_refused(&json!({"quant_method": "fp8", "weight_block_size": size}), "weight_block_size", "");
    }
}

#[test]
fn unsupported_compressed_tensors() {
    for format in ["pack-quantized", "int-quantized", "nvfp4-pack-quantized", "marlin-24"] {
        let mut config = compressed(weights("channel"));
        config["format"] = json!(format);
        assert_refused(&config, "format", format);
        let mut config = compressed(weights("channel"));
        config["config_groups"]["group_0"]["format"] = json!(format);
        assert_refused(&config, "config_groups.group_0.format", format);
    }
    for (field, value, quoted) in [
        ("strategy", json!("group"), "group"),
        ("strategy", json!("token"), "token"),
        ("type", json!("int"), "int"),
        ("num_bits", json!(4), "4"),
        ("symmetric", json!(false), "false"),
    ] {
        let mut config = compressed(weights("channel"));
        config["config_groups"]["group_0"]["weights"][field] = value;
        assert_refused(&config, &format!("config_groups.group_0.weights.{field}"), quoted);
    }
    let key = "config_groups.group_0.weights.block_structure";
    assert_refused(&compressed(weights("block")), key, "absent");
    let mut two = compressed(weights("block"));
    two["config_groups"]["group_0"]["weights"]["block_structure"] = json!([128, 128]);
    two["config_groups"]["group_1"] = two["config_groups"]["group_0"].clone();
    two["config_groups"]["group_1"]["weights"]["block_structure"] = json!([64, 64]);
    assert_refused(&two, "config_groups.group_1.weights.block_structure", "64");
    let mut sparse = compressed(weights("channel"));
    sparse["sparsity_config"] = json!({"format": "sparse-24-bitmask"});
    assert_refused(&sparse, "sparsity_config.format", "sparse-24-bitmask");
    let mut rotated = compressed(weights("channel"));
    rotated["transform_config"] = json!({"config_groups": {"R1": {}}});
    assert_refused(&rotated, "transform_config", "present");
    let mut shifted = with_scale("_scale", Dtype::F32, &[300, 1]);
    shifted.push(info(&format!("{W}_zero_point"), F8, &[300, 1]));
    let error = find(&compressed(weights("channel")), &shifted).unwrap_err();
    assert!(matches!(error, E::UnsupportedQuantization { .. }));
}

#[test]
fn packed_weights_are_refused_by_what_packed_them() {
    for (name, quoted) in [
        ("mlp.up_proj.qweight", "GPTQ or AWQ"),
        ("mlp.up_proj.SCB", "bitsandbytes int8"),
        ("mlp.up_proj.weight.absmax", "nf4"),
        ("mlp.up_proj.weight_packed", "packed integers"),
        ("mlp.experts.gate_up_proj_blocks", "mxfp4"),
        ("mlp.up_proj.weight_scale_2", "nvfp4"),
    ] {
        // Without a config that would say so.
        let tensors = [info(name, Dtype::U8, &[300, 100])];
        let error = Scales::find(&json!({}), &tensors).unwrap_err();
        assert!(matches!(&error, E::UnsupportedQuantization { key, .. } if key == name), "{error:?}");
        assert!(error.to_string().contains(quoted), "{error}");
    }
}

/// The definition: the scale of the weight at `(row, col)`.
fn scale_at(granularity: Granularity, cols: u64, values: &[f32], row: u64, col: u64) -> f32 {
    match granularity {
        Granularity::Tensor => values[0],
        Granularity::Row => values[row as usize],
        Granularity::Block { rows: r, cols: c } => values[((row / r) * cols.div_ceil(c) + col / c) as usize],
    }
}

#[test]
fn spreading_equals_its_definition() {
    let block = |rows, cols| Granularity::Block { rows, cols };
    let granularities =
        [Granularity::Tensor, Granularity::Row, block(2, 3), block(128, 128), block(1, 1), block(3, 7)];
    for granularity in granularities {
        for (rows, cols) in [(1u64, 1u64), (5, 7), (6, 9), (300, 200)] {
            let count = match granularity {
                Granularity::Tensor => 1,
                Granularity::Row => rows,
                Granularity::Block { rows: r, cols: c } => rows.div_ceil(r) * cols.div_ceil(c),
            };
            let values: Vec<f32> = (0..count).map(|i| i as f32 + 1.0).collect();
            check_count(granularity, rows, cols, &values).unwrap();
            let scale_cols = match granularity {
                Granularity::Block { cols, .. } => cols,
                _ => cols,
            };
            // In two parts, as a loader may.
            let mut scales = Vec::new();
            spread(granularity, 0..rows / 2, cols, &values, &mut scales);
            spread(granularity, rows / 2..rows, cols, &values, &mut scales);
            let per_row = cols.div_ceil(scale_cols);
            assert_eq!(scales.len() as u64, rows * per_row);
            for row in 0..rows {
                for col in 0..cols {
                    let got = scales[(row * per_row + col / scale_cols) as usize];
                    assert_eq!(
                        got,
                        scale_at(granularity, cols, &values, row, col),
                        "{granularity} {row} {col}"
                    );
                }
            }
        }
    }
}

#[test]
fn scale_count() {
    for (granularity, expected) in
        [(Granularity::Tensor, 1), (Granularity::Row, 5), (Granularity::Block { rows: 2, cols: 3 }, 9)]
    {
        let error = check_count(granularity, 5, 7, &[1.0; 4]).unwrap_err();
        let granularity = granularity.to_string();
        assert_eq!(error, E::ScaleCount { granularity, rows: 5, cols: 7, values: 4, expected });
    }
}
