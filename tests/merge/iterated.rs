//! A chain of documents is the same merges run one after the other, each result stored.

use std::collections::BTreeMap;

use bise::checkpoint::source::MemorySource;
use bise::dtype::Dtype;
use bise::merge::MergeOptions;

use super::checkpoints::{Files, Maker, decode};
use super::support::{files, plan};

fn run(text: &str, models: &BTreeMap<String, Files>, options: MergeOptions) -> Files {
    let merge = plan(text, options, |name| MemorySource::new(models[name].clone()))
        .unwrap_or_else(|error| panic!("{error}\n{text}"));
    files(&merge)
}

/// Runs the documents as one recipe and one by one; both must have the same bits. Gives the result.
fn compare(documents: &[(&str, &str)], models: &BTreeMap<String, Files>) -> Files {
    let named: Vec<String> = documents.iter().map(|(name, text)| format!("name: {name}\n{text}")).collect();
    let together = run(&named.join("---\n"), models, MergeOptions::default());
    let small = MergeOptions { chunk_elements: 5, ..MergeOptions::default() };
    let in_chunks = decode(&run(&named.join("---\n"), models, small));
    let mut stored = models.clone();
    for (name, text) in documents {
        let result = run(text, &stored, MergeOptions::default());
        stored.insert((*name).to_owned(), result);
    }
    let (last, _) = documents.last().unwrap();
    let (found, expected) = (decode(&together), decode(&stored[*last]));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (tensor, expected) in &expected {
        assert!(found[tensor] == *expected, "{tensor}: other bits than one after the other\n{named:?}");
        assert!(in_chunks[tensor] == *expected, "{tensor}: other bits in chunks\n{named:?}");
    }
    together
}

fn models(dtype: Dtype) -> BTreeMap<String, Files> {
    let names = ["a", "b", "c", "d"].into_iter().enumerate();
    names
        .map(|(i, name)| {
            let maker = Maker { seed: i as u64 + 1, layers: 4, dtype, ..Maker::default() };
            (name.to_owned(), maker.files())
        })
        .collect()
}

/// SLERP of two: base, other, more keys.
fn slerp(base: &str, other: &str, t: &str, more: &str) -> String {
    format!(
        "models: [{{model: {other}}}, {{model: {base}}}]\nmerge_method: slerp\nbase_model: {base}\n\
         parameters: {{t: {t}}}\n{more}\n"
    )
}

const CURVE: &str =
    "[{filter: self_attn, value: [0, 0.5, 1]}, {filter: mlp, value: [0.9, 0.2]}, {value: 0.4}]";

#[test]
fn three_documents_in_every_precision() {
    let dtypes = ["dtype: bfloat16", "dtype: float16", "dtype: float32", "dtype: float64", ""];
    let outs = ["", "out_dtype: bfloat16", "out_dtype: float16", "out_dtype: float32", "out_dtype: float64"];
    let mut different = 0;
    for source in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
        let models = models(source);
        for (i, dtype) in dtypes.iter().enumerate() {
            for (j, out) in outs.iter().enumerate() {
                // Every document has another precision than the one before.
                let first = slerp("a", "b", CURVE, &format!("{dtype}\n{out}"));
                let other = dtypes[(i + j) % dtypes.len()];
                let second =
                    slerp("first", "c", "0.3", &format!("{other}\n{}", outs[(i * 2 + j) % outs.len()]));
                let third = slerp("d", "second", CURVE, &format!("{dtype}\n{out}"));
                let result = compare(&[("first", &first), ("second", &second), ("third", &third)], &models);
                // What is rounded in between is seen in the end.
                let unrounded = slerp("a", "b", CURVE, "dtype: float32\nout_dtype: float64");
                let exact =
                    compare(&[("first", &unrounded), ("second", &second), ("third", &third)], &models);
                different += usize::from(decode(&result) != decode(&exact));
            }
        }
    }
    assert!(different > 30, "only {different} of 75 chains show their intermediate's precision");
}

#[test]
fn an_earlier_document_used_twice() {
    let models = models(Dtype::Bf16);
    let first = slerp("a", "b", CURVE, "dtype: bfloat16");
    let second = slerp("first", "c", "0.7", "dtype: float32\nout_dtype: bfloat16");
    let third = slerp("second", "first", "0.5", "dtype: bfloat16");
    let fourth = "models:\n\
                  - {model: first, parameters: {weight: 0.5}}\n\
                  - {model: third, parameters: {weight: [1, 2]}}\n\
                  - {model: second, parameters: {weight: -0.25}}\n\
                  merge_method: linear\ndtype: bfloat16\n";
    let chain = [("first", &*first), ("second", &second), ("third", &third), ("fourth", fourth)];
    compare(&chain, &models);
}

#[test]
fn documents_over_other_layers() {
    let models = models(Dtype::Bf16);
    // Six layers of four; then the middle of those against another model's; then some of it, scaled.
    let stacked = "slices:\n\
                   - sources: [{model: a, layer_range: [0, 3]}]\n\
                   - sources: [{model: b, layer_range: [1, 4], parameters: {scale: [{filter: down_proj, value: [0, 1.5]}, {value: 1}]}}]\n\
                   merge_method: passthrough\ndtype: bfloat16\n";
    let blended = "slices:\n\
                   - sources: [{model: stacked, layer_range: [0, 2]}, {model: c, layer_range: [2, 4]}]\n\
                   - {sources: [{model: c, layer_range: [0, 3]}, {model: stacked, layer_range: [3, 6]}], parameters: {t: [0.1, 0.9]}}\n\
                   merge_method: slerp\nbase_model: stacked\nparameters: {t: 0.25}\ndtype: float32\n";
    let picked = "slices:\n\
                  - sources: [{model: blended, layer_range: [4, 5]}]\n\
                  - sources: [{model: stacked, layer_range: [1, 6], parameters: {scale: 0.5}}]\n\
                  merge_method: passthrough\nout_dtype: float16\n";
    let result = decode(&compare(&[("stacked", stacked), ("blended", blended), ("picked", picked)], &models));
    assert!(result.contains_key("model.layers.5.mlp.up_proj.weight"));
    assert!(!result.contains_key("model.layers.6.mlp.up_proj.weight"));
}
