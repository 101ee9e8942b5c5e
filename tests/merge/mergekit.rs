//! linear, passthrough and slerp over slices against mergekit's own output,
//! `vectors/mergekit_methods.json`.

use std::collections::BTreeMap;

use bise::checkpoint::source::MemorySource;
use bise::dtype::Dtype;
use bise::merge::MergeOptions;
use serde_json::Value;

use super::checkpoints::{Files, Tensors, checkpoint, decode, numbers};
use super::support::{files, fixture, plan};

pub fn recorded(tensors: &Value) -> Tensors {
    let one = |(name, tensor): (&String, &Value)| {
        let dtype = Dtype::parse(tensor["dtype"].as_str().unwrap()).unwrap();
        let shape = tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let hex = tensor["bytes"].as_str().unwrap();
        let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        (name.clone(), (dtype, shape, (0..hex.len()).step_by(2).map(byte).collect()))
    };
    tensors.as_object().unwrap().iter().map(one).collect()
}

#[test]
fn other_methods_agree_with_mergekit() {
    let vectors: Value = serde_json::from_str(&fixture("vectors/mergekit_methods.json")).unwrap();
    let models: BTreeMap<String, Files> = vectors["models"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, tensors)| (name.clone(), checkpoint(&vectors["config"], &recorded(tensors))))
        .collect();
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let open = |model: &str| MemorySource::new(models[model].clone());
        let merge = plan(case["recipe"].as_str().unwrap(), MergeOptions::default(), open).unwrap();
        let (found, expected) = (decode(&files(&merge)), recorded(&case["tensors"]));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        let (mut elements, mut different) = (0, 0);
        for (tensor, expected) in &expected {
            let found = &found[tensor];
            assert_eq!((found.0, &found.1), (expected.0, &expected.1), "{name}: {tensor}");
            for (got, wanted) in numbers(found).into_iter().zip(numbers(expected)) {
                elements += 1;
                different += usize::from(got.to_bits() != wanted.to_bits());
                // mergekit divides the sum by the weights' sum, bise the weights: an f32 rounding
                // or two of what was added, and then perhaps one of the result's own.
                let ulp = if found.0 == Dtype::F32 { 0.0 } else { wanted.abs() * 2.0_f32.powi(-7) };
                let bar = ulp + 2e-6;
                assert!((got - wanted).abs() <= bar, "{name}: {tensor}: {got}, not {wanted}");
            }
        }
        println!("{name}: {different} of {elements} elements have other bits than mergekit's");
        // One factor, or two: nothing is left to the order of operations. A sum of three in BF16
        // hides nearly all of it.
        let allowed = match name {
            name if name.starts_with("linear") && name.ends_with("float32") => elements,
            name if name.starts_with("linear") => elements / 100,
            _ => 0,
        };
        assert!(different <= allowed, "{name}: {different} of {elements} elements");
    }
}
