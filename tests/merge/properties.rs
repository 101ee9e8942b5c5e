//! Random recipes over random small checkpoints: what must hold for all of them.

use std::collections::BTreeMap;

use bise::checkpoint::source::MemorySource;
use bise::dtype::Dtype;
use bise::merge::{MergeOptions, TensorReport};
use proptest::prelude::*;

use super::checkpoints::{Files, Maker, decode};
use super::support::{files, plan};

/// One document: method, precision, and how far its sources are shifted against one another.
#[derive(Clone, Debug)]
struct Written {
    method: usize,
    dtype: Option<usize>,
    out: Option<usize>,
    values: Vec<f64>,
    filtered: bool,
    /// Which two of the models and documents before it.
    sources: (usize, usize),
    first_layers: (u32, u32),
    swapped: bool,
}

const DTYPES: [&str; 4] = ["bfloat16", "float16", "float32", "float64"];
const MODELS: [&str; 3] = ["a", "b", "c"];
/// Every document's result has as many layers.
const LAYERS: u32 = 2;

fn written() -> impl Strategy<Value = Written> {
    let values = prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), Just(0.5), 0.0..1.0f64], 1..4);
    let precision = || prop::option::of(0..DTYPES.len());
    let shape = (0..3usize, precision(), precision(), values, any::<bool>());
    let place = ((0..100usize, 0..100usize), (0..2u32, 0..2u32), any::<bool>());
    (shape, place).prop_map(|((method, dtype, out, values, filtered), (sources, first_layers, swapped))| {
        Written { method, dtype, out, values, filtered, sources, first_layers, swapped }
    })
}

/// The text of a document, the number `index` of `count`.
fn text(written: &Written, index: usize, count: usize) -> String {
    let earlier: Vec<String> = (0..index).map(|i| format!("made{i}")).collect();
    let names: Vec<&str> = MODELS.into_iter().chain(earlier.iter().map(String::as_str)).collect();
    // Every document is used by the next one; models have a layer to spare, documents have not.
    let first = if index > 0 { names.len() - 1 } else { written.sources.0 % names.len() };
    let others: Vec<usize> = (0..names.len()).filter(|i| *i != first).collect();
    let second = others[written.sources.1 % others.len()];
    let source = |which: usize, start: u32| {
        let start = if which < MODELS.len() { start } else { 0 };
        format!("{{model: {}, layer_range: [{start}, {}]}}", names[which], start + LAYERS)
    };
    let mut sources = vec![source(first, written.first_layers.0)];
    if written.method < 2 {
        sources.push(source(second, written.first_layers.1));
    }
    if written.swapped {
        sources.reverse();
    }
    let value = format!("{:?}", written.values);
    let value = match written.filtered {
        true => {
            format!("[{{filter: mlp, value: {value}}}, {{filter: q_proj, value: 0.25}}, {{value: 0.75}}]")
        }
        false => value,
    };
    let (method, key) = [("slerp", "t"), ("linear", "weight"), ("passthrough", "scale")][written.method];
    let mut text = format!("slices:\n- sources: [{}]\nmerge_method: {method}\n", sources.join(", "));
    text += &format!("parameters: {{{key}: {value}}}\n");
    if written.method == 0 {
        text += &format!("base_model: {}\n", names[first]);
    }
    for (key, dtype) in [("dtype", written.dtype), ("out_dtype", written.out)] {
        text += &dtype.map_or(String::new(), |dtype| format!("{key}: {}\n", DTYPES[dtype]));
    }
    match index + 1 == count {
        true => text,
        false => format!("name: made{index}\n{text}---\n"),
    }
}

fn models(dtypes: [usize; 3], hidden: u64) -> BTreeMap<String, Files> {
    let wide = [Dtype::Bf16, Dtype::F16, Dtype::F32];
    let model = |(i, name): (usize, &str)| {
        let (seed, layers) = (i as u64 + 1, u64::from(LAYERS) + 1);
        let maker = Maker { seed, layers, hidden, dtype: wide[dtypes[i] % 3], ..Maker::default() };
        (name.to_owned(), maker.files())
    };
    MODELS.into_iter().enumerate().map(model).collect()
}

struct Result {
    files: Files,
    reports: Vec<TensorReport>,
}

fn run(text: &str, models: &BTreeMap<String, Files>, options: MergeOptions, piece_bytes: usize) -> Result {
    let open = |name: &str| MemorySource { piece_bytes, ..MemorySource::new(models[name].clone()) };
    let merge = plan(text, options, open).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let files = files(&merge);
    Result { files, reports: merge.report().tensors }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_pieces_and_shards_never_show(
        documents in prop::collection::vec(written(), 1..4),
        dtypes in [0..3usize, 0..3, 0..3],
        hidden in (1..6u64).prop_map(|n| n * 2),
        chunk_elements in prop_oneof![Just(1usize), 1..9usize, 10..200usize],
        piece_bytes in prop_oneof![Just(1usize), 1..9usize, 10..999usize],
        shard_bytes in prop_oneof![Just(1u64), 1..999u64, Just(u64::MAX)],
        quantize in any::<bool>(),
    ) {
        let count = documents.len();
        let text: String = documents.iter().enumerate().map(|(i, each)| text(each, i, count)).collect();
        let models = models(dtypes, hidden);
        let whole = MergeOptions { quantize, ..MergeOptions::default() };
        let cut = MergeOptions { chunk_elements, shard_bytes, ..whole.clone() };
        let (whole, cut) = (run(&text, &models, whole, 1 << 16), run(&text, &models, cut, piece_bytes));
        let (tensors, others) = (decode(&whole.files), decode(&cut.files));
        prop_assert!(tensors.len() >= 21);
        prop_assert_eq!(tensors.keys().collect::<Vec<_>>(), others.keys().collect::<Vec<_>>());
        for (name, tensor) in &tensors {
            prop_assert!(others[name] == *tensor, "{}: chunks of {}\n{}", name, chunk_elements, text);
        }
        // So are the sums: reports agree but for their order.
        let sorted = |mut reports: Vec<TensorReport>| {
            reports.sort_by(|a, b| (&a.document, &a.tensor).cmp(&(&b.document, &b.tensor)));
            reports
        };
        prop_assert_eq!(sorted(whole.reports), sorted(cut.reports));
    }

    #[test]
    fn the_ends_of_a_slerp_are_its_parents(
        t in 0..2usize,
        base in 0..2usize,
        dtypes in [0..3usize, 0..3, 0..3],
        chunk_elements in 1..50usize,
    ) {
        let models = models(dtypes, 8);
        let parents = ["a", "b"];
        let text = format!(
            "models: [{{model: a}}, {{model: b}}]\nmerge_method: slerp\nbase_model: {}\nparameters: {{t: {t}}}\ndtype: float32\n",
            parents[base],
        );
        let options = MergeOptions { chunk_elements, ..MergeOptions::default() };
        let result = decode(&run(&text, &models, options, 1 << 16).files);
        let expected = decode(&models[parents[base ^ t]]);
        for (name, tensor) in &result {
            let (found, expected) = (super::checkpoints::numbers(tensor), super::checkpoints::numbers(&expected[name]));
            // 0 * x adds a zero: equal as numbers, and bit for bit unless that was a negative zero.
            let same = found.iter().zip(&expected).all(|(x, y)| x.to_bits() == y.to_bits() || (*x == 0.0 && *y == 0.0));
            prop_assert!(same, "{}: t {} from {}", name, t, parents[base]);
        }
    }

    #[test]
    fn one_model_with_all_the_weight_is_that_model(
        others in prop::collection::vec(1..3usize, 0..2),
        weight in prop_oneof![Just(1.0), Just(0.5), Just(4.0)],
        dtype in 0..3usize,
    ) {
        let models = models([dtype; 3], 8);
        let own = ["bfloat16", "float16", "float32"][dtype];
        let mut sources = vec![format!("{{model: a, parameters: {{weight: {weight}}}}}")];
        let mut named: Vec<usize> = others;
        named.dedup();
        sources.extend(named.iter().map(|i| format!("{{model: {}, parameters: {{weight: 0}}}}", MODELS[*i])));
        let text = format!("models: [{}]\nmerge_method: linear\ndtype: {own}\n", sources.join(", "));
        let result = decode(&run(&text, &models, MergeOptions::default(), 1 << 16).files);
        let expected = decode(&models["a"]);
        for (name, tensor) in &result {
            let (found, expected) = (super::checkpoints::numbers(tensor), super::checkpoints::numbers(&expected[name]));
            prop_assert_eq!(found, expected, "{}", name);
        }
    }
}
