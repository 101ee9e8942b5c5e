//! linear, passthrough and slerp over slices against definitions that are written out here.

use std::collections::BTreeMap;

use bise::checkpoint::source::MemorySource;
use bise::dtype::Dtype;
use bise::merge::MergeOptions;

use super::checkpoints::{Files, Maker, Tensors, decode, encode, numbers, round};
use super::support::{files, plan};

fn models(dtype: Dtype) -> BTreeMap<String, Files> {
    let names = ["a", "b", "c"].into_iter().enumerate();
    names
        .map(|(i, name)| {
            let maker = Maker { seed: i as u64 + 1, layers: 4, dtype, ..Maker::default() };
            (name.to_owned(), maker.files())
        })
        .collect()
}

fn run(text: &str, models: &BTreeMap<String, Files>) -> Tensors {
    let open = |name: &str| MemorySource::new(models[name].clone());
    let merge = plan(text, MergeOptions::default(), open).unwrap_or_else(|error| panic!("{error}\n{text}"));
    decode(&files(&merge))
}

/// Name of the tensor that lies in another layer.
fn moved(tensor: &str, layer: u64) -> String {
    let parts: Vec<&str> = tensor.split('.').collect();
    let layer = layer.to_string();
    let replaced: Vec<&str> =
        parts.iter().enumerate().map(|(i, part)| if i == 2 { layer.as_str() } else { part }).collect();
    replaced.join(".")
}

fn layer_of(tensor: &str) -> Option<u64> {
    tensor.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// `sum of factor * value`, in f64 with one rounding by way of f32, and the size of what was added.
fn sum(terms: &[(f64, &[f32])], i: usize) -> (f64, f64) {
    let each = terms.iter().map(|(factor, values)| factor * f64::from(values[i]));
    (each.clone().sum(), each.map(f64::abs).sum())
}

/// Asserts that a tensor is that sum: exactly where one term is all, else within f32's roundings and
/// the one to `dtype`.
fn assert_sum(name: &str, found: &(Dtype, Vec<u64>, Vec<u8>), dtype: Dtype, terms: &[(f64, &[f32])]) {
    assert_eq!(found.0, dtype, "{name}");
    for (i, got) in numbers(found).into_iter().enumerate() {
        let (expected, size) = sum(terms, i);
        if terms.len() == 1 {
            let (factor, values) = (terms[0].0 as f32, terms[0].1);
            assert_eq!(got.to_bits(), round(dtype, factor * values[i]).to_bits(), "{name}[{i}]");
        }
        let step = match dtype {
            Dtype::Bf16 => 2.0_f64.powi(-8),
            Dtype::F16 => 2.0_f64.powi(-11),
            _ => 0.0,
        };
        let bar = step * expected.abs() + 1e-6 * size + 6e-8;
        assert!((f64::from(got) - expected).abs() <= bar, "{name}[{i}] is {got}, not {expected}");
    }
}

#[test]
fn linear_is_the_weighted_mean() {
    for (dtype, key) in [(Dtype::Bf16, "bfloat16"), (Dtype::F16, "float16"), (Dtype::F32, "float32")] {
        let models = models(Dtype::F32);
        let [a, b, c] = ["a", "b", "c"].map(|name| decode(&models[name]));
        let cast = |tensors: &Tensors, name: &str| -> Vec<f32> {
            numbers(&tensors[name]).into_iter().map(|v| round(dtype, v)).collect()
        };
        for (normalize, line) in [(true, ""), (true, ", normalize: true"), (false, ", normalize: false")] {
            let text = format!(
                "models:\n\
                 - {{model: a, parameters: {{weight: 0.7}}}}\n\
                 - {{model: b, parameters: {{weight: [{{filter: mlp, value: [1, 3]}}, {{value: 0.2}}]}}}}\n\
                 - {{model: c}}\n\
                 merge_method: linear\nparameters: {{weight: -0.25{line}}}\ndtype: {key}\n"
            );
            let result = run(&text, &models);
            assert_eq!(result.keys().collect::<Vec<_>>(), a.keys().collect::<Vec<_>>());
            for (name, found) in &result {
                // Four layers: positions 0, 1/3, 2/3, 1.
                let position = layer_of(name).unwrap_or(0) as f64 / 3.0;
                let of_b = if name.contains("mlp") { 1.0 + 2.0 * position } else { 0.2 };
                let weights = [0.7, of_b, -0.25];
                let total = if normalize { weights.iter().sum() } else { 1.0 };
                let parts = [cast(&a, name), cast(&b, name), cast(&c, name)];
                let terms: Vec<(f64, &[f32])> =
                    weights.iter().zip(&parts).map(|(w, part)| (w / total, part.as_slice())).collect();
                assert_sum(name, found, dtype, &terms);
            }
        }
    }
}

#[test]
fn weights_that_cancel_out_are_not_divided_by() {
    let models = models(Dtype::F32);
    let [a, b] = ["a", "b"].map(|name| decode(&models[name]));
    let text = "models: [{model: a, parameters: {weight: 0.5}}, {model: b, parameters: {weight: -0.5}}]\n\
                merge_method: linear\ndtype: float32\n";
    for (name, found) in &run(text, &models) {
        let (a, b) = (numbers(&a[name]), numbers(&b[name]));
        assert_sum(name, found, Dtype::F32, &[(0.5, &a), (-0.5, &b)]);
    }
}

#[test]
fn passthrough_stacks_and_scales() {
    let models = models(Dtype::Bf16);
    let [a, b, c] = ["a", "b", "c"].map(|name| decode(&models[name]));
    let text = "slices:\n\
                - sources: [{model: a, layer_range: [0, 3]}]\n\
                - sources: [{model: b, layer_range: [1, 4], parameters: {scale: [{filter: o_proj, value: 0}, {filter: down_proj, value: [0.5, 1.5]}, {value: 1}]}}]\n\
                - {sources: [{model: c, layer_range: [3, 4]}], parameters: {scale: -2}}\n\
                merge_method: passthrough\n";
    let result = run(text, &models);
    assert_eq!(result.len(), 3 + 7 * 9);
    for (name, found) in &result {
        let (model, there, scale) = match layer_of(name) {
            // The first slice has the embedding, the last the norm and the head.
            None if name.contains("embed") => (&a, name.clone(), 1.0),
            None => (&c, name.clone(), -2.0),
            Some(layer @ 0..3) => (&a, moved(name, layer), 1.0),
            Some(layer @ 3..6) => {
                let scale = match name {
                    name if name.contains("o_proj") => 0.0,
                    name if name.contains("down_proj") => 0.5 + (layer - 3) as f64 / 2.0,
                    _ => 1.0,
                };
                (&b, moved(name, layer - 2), scale)
            }
            Some(_) => (&c, moved(name, 3), -2.0),
        };
        let values = numbers(&model[&there]);
        assert_sum(name, found, Dtype::Bf16, &[(scale, &values)]);
        if scale == 1.0 {
            assert!(found.2 == model[&there].2, "{name} is not {there} bit for bit");
        }
    }
}

#[test]
fn slerp_over_slices_that_lie_elsewhere() {
    let models = models(Dtype::Bf16);
    let [a, b] = ["a", "b"].map(|name| decode(&models[name]));
    // The base second in the first slice, first in the next.
    let text = "slices:\n\
                - sources: [{model: b, layer_range: [1, 3]}, {model: a, layer_range: [0, 2]}]\n\
                - {sources: [{model: a, layer_range: [3, 4]}, {model: b, layer_range: [3, 4]}], parameters: {t: [0.25, 0.75]}}\n\
                merge_method: slerp\nbase_model: a\nparameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]}\n\
                dtype: bfloat16\nout_dtype: float32\n";
    let mut branches = [0, 0];
    for (name, found) in &run(text, &models) {
        let mlp = name.contains("mlp");
        let (of_a, of_b, t) = match layer_of(name) {
            None if name.contains("embed") => (name.clone(), name.clone(), 0.5),
            // In the second slice, at position 0.
            None => (name.clone(), name.clone(), 0.25),
            Some(0) => (moved(name, 0), moved(name, 1), if mlp { 0.0 } else { 0.5 }),
            Some(1) => (moved(name, 1), moved(name, 2), if mlp { 1.0 } else { 0.5 }),
            // One layer is at position 1.
            Some(_) => (moved(name, 3), moved(name, 3), 0.75),
        };
        let (x, y) = (numbers(&a[&of_a]), numbers(&b[&of_b]));
        let dot = |x: &[f32], y: &[f32]| -> f64 {
            x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
        };
        let cosine = dot(&x, &y) / (dot(&x, &x) * dot(&y, &y)).sqrt();
        let linear = cosine.abs() > 0.9995;
        branches[usize::from(linear)] += 1;
        let angle = cosine.acos();
        let factors = match linear {
            true => [1.0 - t, t],
            false => [((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()],
        };
        // Stored as float32, but rounded to bfloat16 before.
        let values = numbers(found);
        assert_eq!(found.0, Dtype::F32);
        assert_eq!(encode(Dtype::F32, &values), found.2);
        for (i, got) in values.iter().enumerate() {
            assert_eq!(*got, round(Dtype::Bf16, *got), "{name}[{i}]");
            let expected = factors[0] * f64::from(x[i]) + factors[1] * f64::from(y[i]);
            let size = (factors[0] * f64::from(x[i])).abs() + (factors[1] * f64::from(y[i])).abs();
            let bar = 2.0_f64.powi(-8) * expected.abs() + 1e-6 * size;
            assert!((f64::from(*got) - expected).abs() <= bar, "{name}[{i}] is {got}, not {expected}");
        }
    }
    assert!(branches.iter().all(|count| *count > 3), "{branches:?}");
}
