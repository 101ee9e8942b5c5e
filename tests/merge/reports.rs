//! What the report says of each tensor, against numbers that are computed here.

use std::collections::BTreeMap;

use bise::checkpoint::source::MemorySource;
use bise::dtype::Dtype;
use bise::merge::report::Combination;
use bise::merge::{MergeOptions, MergeReport};

use super::checkpoints::{Files, Maker, Tensors, decode};
use super::dtypes::doubles;
use super::support::{files, plan};

fn models(dtype: Dtype) -> BTreeMap<String, Files> {
    let model = |(i, name): (usize, &str)| {
        (name.to_owned(), Maker { seed: i as u64 + 1, dtype, ..Maker::default() }.files())
    };
    ["a", "b", "c"].into_iter().enumerate().map(model).collect()
}

fn report(text: &str, models: &BTreeMap<String, Files>, chunk_elements: usize) -> MergeReport {
    let options = MergeOptions { chunk_elements, ..MergeOptions::default() };
    let merge = plan(text, options, |name| MemorySource::new(models[name].clone())).unwrap();
    files(&merge);
    merge.report()
}

/// Norms of the sources and distances of their weighted sum from each, in f64.
fn measured(sources: &[Vec<f64>], factors: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let result: Vec<f64> =
        (0..sources[0].len()).map(|i| sources.iter().zip(factors).map(|(s, f)| f * s[i]).sum()).collect();
    let distance = |source: &Vec<f64>| norm(&mut source.iter().zip(&result).map(|(s, r)| r - s));
    let norms = sources.iter().map(|source| norm(&mut source.iter().copied())).collect();
    (norms, sources.iter().map(distance).collect())
}

fn near(found: &[f64], expected: &[f64], scale: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for ((found, expected), scale) in found.iter().zip(expected).zip(scale) {
        assert!((found - expected).abs() <= 1e-6 * scale, "{what}: {found}, not {expected}");
    }
}

/// The tensors that a report names as its sources.
fn sources(named: &[String], models: &BTreeMap<String, Tensors>) -> Vec<Vec<f64>> {
    let one = |source: &String| {
        let (model, tensor) = source.split_once(": ").unwrap();
        doubles(&models[model][tensor])
    };
    named.iter().map(one).collect()
}

const SUM: &str = "models:\n\
                   - {model: a, parameters: {weight: 0.7}}\n\
                   - {model: b, parameters: {weight: [{filter: mlp, value: [1, 3]}, {value: 0.2}]}}\n\
                   - {model: c}\n\
                   merge_method: linear\nparameters: {weight: -0.25}\n";

#[test]
fn weighted_sums_have_norms_and_distances() {
    for (dtype, key) in [(Dtype::Bf16, "bfloat16"), (Dtype::F32, "float32"), (Dtype::F32, "float64")] {
        let models = models(dtype);
        let decoded: BTreeMap<String, Tensors> =
            models.iter().map(|(name, files)| (name.clone(), decode(files))).collect();
        let text = format!("{SUM}dtype: {key}\n");
        let whole = report(&text, &models, 1 << 16);
        assert_eq!(whole.tensors.len(), 21);
        for tensor in &whole.tensors {
            assert_eq!((tensor.method, tensor.path), (Combination::Linear, "cpu"));
            assert!(tensor.slerp.is_none());
            let sources = sources(&tensor.sources, &decoded);
            assert_eq!(sources.len(), 3);
            let (norms, distances) = measured(&sources, &tensor.coefficients);
            near(&tensor.norms, &norms, &norms, &tensor.tensor);
            near(&tensor.distances, &distances, &norms, &tensor.tensor);
            let far = distances.iter().zip(&norms).all(|(distance, norm)| *distance > 1e-5 * norm);
            assert!(far, "{distances:?} of {norms:?}");
        }
        for chunk in [1, 3, 100] {
            assert_eq!(report(&text, &models, chunk).tensors, whole.tensors, "{key} in chunks of {chunk}");
        }
    }
}

#[test]
fn copies_and_scaled_tensors_have_norms_and_distances() {
    let models = models(Dtype::F16);
    let decoded: BTreeMap<String, Tensors> =
        models.iter().map(|(name, files)| (name.clone(), decode(files))).collect();
    let text = "slices:\n\
                - sources: [{model: b, layer_range: [1, 2]}]\n\
                - sources: [{model: a, layer_range: [0, 2], parameters: {scale: [{filter: mlp, value: -1.5}, {value: 1}]}}]\n\
                merge_method: passthrough\n";
    let whole = report(text, &models, 1 << 16);
    assert_eq!(whole.tensors.len(), 3 + 3 * 9);
    let mut copies = 0;
    for tensor in &whole.tensors {
        assert_eq!((tensor.method, tensor.path), (Combination::Passthrough, "cpu"));
        let (norms, distances) = measured(&sources(&tensor.sources, &decoded), &tensor.coefficients);
        near(&tensor.norms, &norms, &norms, &tensor.tensor);
        near(&tensor.distances, &distances, &norms, &tensor.tensor);
        if tensor.coefficients == [1.0] {
            assert_eq!(tensor.distances, [0.0], "{}", tensor.tensor);
            copies += 1;
        } else {
            assert!((tensor.distances[0] - 2.5 * tensor.norms[0]).abs() < 1e-6 * tensor.norms[0]);
        }
    }
    assert_eq!(copies, whole.tensors.len() - 6);
    assert_eq!(report(text, &models, 3).tensors, whole.tensors);
}

/// In a chain, every document's tensors are measured once, though they are computed several times.
#[test]
fn earlier_documents_are_measured_too() {
    let models = models(Dtype::F32);
    let decoded: BTreeMap<String, Tensors> =
        models.iter().map(|(name, files)| (name.clone(), decode(files))).collect();
    let text = "name: sum\nmodels: [{model: a}, {model: b}]\nmerge_method: linear\nparameters: {weight: [1, 2]}\n\
                ---\nname: turned\nmodels: [{model: sum}, {model: c}]\nmerge_method: slerp\nbase_model: sum\n\
                parameters: {t: 0.5}\n\
                ---\nmodels: [{model: turned}, {model: sum}]\nmerge_method: slerp\nbase_model: turned\nparameters: {t: 0.5}\n";
    let whole = report(text, &models, 1 << 16);
    assert_eq!(whole.tensors.len(), 3 * 21);
    let of = |document: &'static str| {
        whole.tensors.iter().filter(move |tensor| tensor.document.as_deref() == Some(document))
    };
    for tensor in of("sum") {
        let (norms, distances) = measured(&sources(&tensor.sources, &decoded), &tensor.coefficients);
        near(&tensor.norms, &norms, &norms, &tensor.tensor);
        near(&tensor.distances, &distances, &norms, &tensor.tensor);
    }
    // The norm of a sum is that of a source of the next document.
    assert_eq!(of("sum").count(), 21);
    for (sum, turned) in of("sum").zip(of("turned")) {
        let pairs = sum.coefficients.iter().zip(sources(&sum.sources, &decoded));
        let mut total = vec![0.0; sum.shape.iter().product::<u64>() as usize];
        pairs.for_each(|(f, values)| total.iter_mut().zip(values).for_each(|(t, v)| *t += f * v));
        let norm = total.iter().map(|v| v * v).sum::<f64>().sqrt();
        near(&turned.norms[..1], &[norm], &[norm], &turned.tensor);
        assert!(turned.slerp.is_some());
    }
    assert_eq!(report(text, &models, 5).tensors, whole.tensors);
}
