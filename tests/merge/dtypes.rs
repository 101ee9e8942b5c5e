//! float64, float16 and parents of several precisions against mergekit's own output,
//! `vectors/mergekit_dtypes.json`.

use std::collections::BTreeMap;

use bise::checkpoint::source::MemorySource;
use bise::dtype::Dtype;
use bise::merge::MergeOptions;
use half::{bf16, f16};
use serde_json::Value;

use super::checkpoints::{Files, Tensors, checkpoint, decode};
use super::mergekit::recorded;
use super::support::{files, fixture, plan};

/// Values of a tensor, exactly.
pub fn doubles((dtype, _, bytes): &(Dtype, Vec<u64>, Vec<u8>)) -> Vec<f64> {
    match dtype {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f64()).collect(),
        Dtype::Bf16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect(),
        other => panic!("{other} is not wide"),
    }
}

fn vectors() -> (Value, BTreeMap<String, Files>) {
    let vectors: Value = serde_json::from_str(&fixture("vectors/mergekit_dtypes.json")).unwrap();
    let files = |(name, tensors): (&String, &Value)| {
        (name.clone(), checkpoint(&vectors["config"], &recorded(tensors)))
    };
    let models = vectors["models"].as_object().unwrap().iter().map(files).collect();
    (vectors, models)
}

fn run(recipe: &str, models: &BTreeMap<String, Files>, chunk_elements: usize) -> Tensors {
    let options = MergeOptions { chunk_elements, ..MergeOptions::default() };
    let open = |model: &str| MemorySource::new(models[model].clone());
    decode(&files(&plan(recipe, options, open).unwrap_or_else(|error| panic!("{error}\n{recipe}"))))
}

/// How far an element may be from mergekit's, relative to its size. Its f64 sums are added in another
/// order; in F32 so are its f32 sums, and BF16 and F16 then may fall to the other side.
fn bar(dtype: Dtype, size: f64) -> f64 {
    size * match dtype {
        Dtype::F64 => 1e-14,
        Dtype::F32 => 1e-6,
        Dtype::F16 => 2.0_f64.powi(-10),
        _ => 2.0_f64.powi(-7),
    }
}

#[test]
fn every_precision_agrees_with_mergekit() {
    let (vectors, models) = vectors();
    let largest = |tensors: &Tensors| tensors.values().flat_map(doubles).map(f64::abs).fold(0.0, f64::max);
    let size = models.values().map(|files| largest(&decode(files))).fold(0.0, f64::max);
    let cases = vectors["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 19);
    for case in cases {
        let (name, recipe) = (case["name"].as_str().unwrap(), case["recipe"].as_str().unwrap());
        let (found, expected) = (run(recipe, &models, 1 << 16), recorded(&case["tensors"]));
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        let (mut elements, mut different, mut wide) = (0, 0, 0);
        for (tensor, expected) in &expected {
            let found = &found[tensor];
            assert_eq!((found.0, &found.1), (expected.0, &expected.1), "{name}: {tensor}");
            for (got, wanted) in doubles(found).into_iter().zip(doubles(expected)) {
                elements += 1;
                different += usize::from(got.to_bits() != wanted.to_bits());
                wide += usize::from(f64::from(wanted as f32) != wanted);
                let bar = bar(found.0, size);
                assert!((got - wanted).abs() <= bar, "{name}: {tensor}: {got:e}, not {wanted:e}");
            }
        }
        println!("{name}: {different} of {elements} elements have other bits, {wide} need f64");
        // What f64 leaves in BF16 or F16 is certain, and so is one factor.
        let narrow = expected.values().all(|(dtype, ..)| matches!(dtype, Dtype::Bf16 | Dtype::F16));
        if narrow || recipe.contains("passthrough") {
            assert_eq!(different, 0, "{name}");
        }
        // A result that went through f32 would not pass.
        let is_wide = expected.values().all(|(dtype, ..)| *dtype == Dtype::F64);
        assert!(!is_wide || wide * 10 > elements * 9 || name.starts_with("bf16, scaled"), "{name}: {wide}");
        // Chunks show here as little as in f32.
        for chunk in [1, 7] {
            assert!(run(recipe, &models, chunk) == found, "{name} in chunks of {chunk}");
        }
    }
}

/// Chains go through f64 where their documents do, and through f32 where they do not.
#[test]
fn a_chain_keeps_the_precision_of_its_documents() {
    let (_, models) = vectors();
    let document = |base: &str, other: &str, more: &str| {
        format!(
            "models: [{{model: {base}}}, {{model: {other}}}]\nmerge_method: slerp\nbase_model: {base}\n\
             parameters: {{t: 0.4}}\n{more}"
        )
    };
    let scaled = "models: [{model: first}]\nmerge_method: passthrough\nparameters: {scale: 0.3}\n";
    let sum = "models: [{model: first}, {model: f32}]\nmerge_method: linear\nparameters: {weight: 0.3}\n";
    let mut results = Vec::new();
    for of_first in ["dtype: float64\n", "dtype: float32\n", "", "dtype: float64\nout_dtype: bfloat16\n"] {
        for second in [
            document("first", "other64", "dtype: float64\n"),
            document("f32", "first", "dtype: float32\nout_dtype: float64\n"),
            scaled.to_owned(),
            format!("{sum}dtype: float64\n"),
            sum.to_owned(),
        ] {
            let first = document("f64", "f32", of_first);
            let together = run(&format!("name: first\n{first}---\n{second}"), &models, 5);
            let mut stored = models.clone();
            let open = |model: &str| MemorySource::new(models[model].clone());
            let merged = files(&plan(&first, MergeOptions::default(), open).unwrap());
            stored.insert("first".to_owned(), merged);
            let expected = run(&second, &stored, 1 << 16);
            assert!(together == expected, "{of_first}{second}");
            // In float64 already, the sum is the same with and without dtype.
            if second != sum {
                results.push(together);
            }
        }
    }
    let distinct = |results: &[Tensors]| {
        results.iter().enumerate().all(|(i, one)| results[..i].iter().all(|other| other != one))
    };
    // Without dtype the first document is in float64, too: its third row is its first again.
    assert!(results[8..12] == results[..4]);
    results.drain(8..12);
    assert!(distinct(&results), "precision shows nowhere");
}

/// Doubles beyond the range of f32 are no damage where nothing is done in f32.
#[test]
fn values_that_only_f64_holds() {
    let (vectors, mut models) = vectors();
    let name = "model.layers.0.mlp.up_proj.weight";
    let mut tensors = decode(&models["f64"]);
    tensors.get_mut(name).unwrap().2[24..32].copy_from_slice(&1e300_f64.to_le_bytes());
    models.insert("f64".to_owned(), checkpoint(&vectors["config"], &tensors));
    let recipe = "models: [{model: f64}]\nmerge_method: passthrough\nparameters: {scale: 2}\n";
    let found = run(recipe, &models, 1 << 16);
    assert_eq!(doubles(&found[name])[3], 2e300);
    let failure = |recipe: &str| {
        let open = |model: &str| MemorySource::new(models[model].clone());
        let merge = plan(recipe, MergeOptions::default(), open).unwrap();
        let mut sink = bise::checkpoint::sink::MemorySink::default();
        pollster::block_on(merge.write(&mut sink, &mut |_| ())).unwrap_err().to_string()
    };
    for narrow in ["float32", "bfloat16", "float64\nout_dtype: float32"] {
        let error = failure(&format!("{recipe}dtype: {narrow}\n"));
        assert!(error.contains(name) && error.contains("element 3 of the result does not fit"), "{error}");
    }
    // What no type holds is damage.
    tensors.get_mut(name).unwrap().2[24..32].copy_from_slice(&f64::INFINITY.to_le_bytes());
    models.insert("f64".to_owned(), checkpoint(&vectors["config"], &tensors));
    let open = |model: &str| MemorySource::new(models[model].clone());
    let merge = plan(recipe, MergeOptions::default(), open).unwrap();
    let mut sink = bise::checkpoint::sink::MemorySink::default();
    let error = pollster::block_on(merge.write(&mut sink, &mut |_| ())).unwrap_err().to_string();
    assert!(error.contains("f64: ") && error.contains("NaN or infinity at element 3"), "{error}");
}
