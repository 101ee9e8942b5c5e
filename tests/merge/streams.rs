//! How often the parents are read, and a result that is read in several places at once.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::Poll;

use bise::checkpoint::source::{MemorySource, MemoryStream};
use bise::checkpoint::{ByteSource, ByteStream, Manifest, Opened, SourceError};
use bise::dtype::Dtype;
use bise::merge::{Merge, MergeOptions};
use pollster::block_on;

use super::checkpoints::{Files, Maker, decode};
use super::fp8::scaled_in_blocks;
use super::support::{files, plan};

/// How often each byte of each file was handed out.
type Counts = Rc<RefCell<BTreeMap<String, Vec<u8>>>>;

#[derive(Clone)]
struct Counting {
    source: MemorySource,
    counts: Counts,
}

struct CountingStream {
    stream: MemoryStream,
    file: String,
    at: usize,
    counts: Counts,
}

impl ByteSource for Counting {
    type Stream = CountingStream;

    async fn open(
        &self,
        file: &str,
        range: Option<Range<u64>>,
    ) -> Result<Opened<CountingStream>, SourceError> {
        let at = range.as_ref().map_or(0, |range| range.start as usize);
        let opened = self.source.open(file, range).await?;
        let (file, counts) = (file.to_owned(), self.counts.clone());
        Ok(opened.map(|stream| CountingStream { stream, file, at, counts }))
    }
}

impl ByteStream for CountingStream {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let piece = self.stream.next().await?;
        let length = piece.as_ref().map_or(0, Vec::len);
        let mut counts = self.counts.borrow_mut();
        let counts = counts.entry(self.file.clone()).or_default();
        counts.resize(counts.len().max(self.at + length), 0);
        counts[self.at..self.at + length].iter_mut().for_each(|count| *count += 1);
        self.at += length;
        Ok(piece)
    }
}

/// Several times as long as what comes along with a header.
fn large(seed: u64, dtype: Dtype) -> Maker {
    Maker { seed, hidden: 320, vocab: 200, dtype, ..Maker::default() }
}

#[test]
fn every_byte_of_every_parent_is_read_once() {
    let models: BTreeMap<&str, Files> = [
        ("bf16", large(1, Dtype::Bf16).files()),
        ("f64", large(2, Dtype::F64).files()),
        ("f8", scaled_in_blocks(&large(3, Dtype::Bf16), 16, 32)),
    ]
    .into();
    let two = |base: &str, other: &str, dtype: &str| {
        format!(
            "models: [{{model: {base}}}, {{model: {other}}}]\nmerge_method: slerp\nbase_model: {base}\n\
             parameters: {{t: 0.3}}\ndtype: {dtype}\n"
        )
    };
    let mut recipes = vec![
        two("f8", "bf16", "bfloat16"),
        two("bf16", "f8", "float32"),
        two("f64", "f8", "float64"),
        "models: [{model: f8}]\nmerge_method: passthrough\n".to_owned(),
        "models: [{model: f8}, {model: f64}, {model: bf16}]\nmerge_method: linear\nparameters: {weight: 1}\n"
            .to_owned(),
    ];
    let first = recipes[0].clone();
    recipes.push(format!("name: one\n{first}---\n{}", two("one", "f64", "bfloat16")));
    for recipe in &recipes {
        for quantize in [false, true] {
            let counts: BTreeMap<&str, Counts> =
                models.keys().map(|name| (*name, Counts::default())).collect();
            let open = |name: &str| Counting {
                source: MemorySource::new(models[name].clone()),
                counts: counts[name].clone(),
            };
            let options = MergeOptions { quantize, chunk_elements: 1000, ..MergeOptions::default() };
            let merge = plan(recipe, options, open).unwrap();
            files(&merge);
            for (name, counts) in counts.iter().filter(|(name, _)| recipe.contains(**name)) {
                let counts = counts.borrow();
                let counts = &counts["model.safetensors"];
                assert_eq!(counts.len(), models[name]["model.safetensors"].len(), "{name}\n{recipe}");
                assert!(counts.len() > 200_000, "{}", counts.len());
                let other = counts.iter().position(|count| *count != 1);
                assert_eq!(
                    other,
                    None,
                    "{name}: {other:?} was read {:?} times\n{recipe}",
                    other.map(|i| counts[i])
                );
            }
        }
    }
}

#[test]
fn what_is_not_kept_is_read_again_and_no_more() {
    let models: BTreeMap<&str, Files> = [(1, "a", Dtype::Bf16), (2, "b", Dtype::Bf16), (3, "c", Dtype::F32)]
        .map(|(seed, name, dtype)| (name, large(seed, dtype).files()))
        .into();
    let recipe = |other: &str, dtype: &str| {
        format!(
            "models: [{{model: a}}, {{model: {other}}}]\nmerge_method: slerp\nbase_model: a\nparameters: {{t: 0.3}}\n\
             dtype: {dtype}\n"
        )
    };
    // Elements as they are, and as values.
    for recipe in [recipe("b", "bfloat16"), recipe("c", "float32")] {
        let options =
            |kept_bytes| MergeOptions { kept_bytes, chunk_elements: 1000, ..MergeOptions::default() };
        let open = |name: &str| MemorySource::new(models[name].clone());
        let expected = files(&plan(&recipe, options(u64::MAX), open).unwrap());
        let mut read = Vec::new();
        for kept_bytes in [0, 1, 40_001, 120_000, 1 << 20, u64::MAX] {
            let counts = Counts::default();
            let open = |name: &str| Counting {
                source: MemorySource::new(models[name].clone()),
                counts: if name == "a" { counts.clone() } else { Counts::default() },
            };
            assert!(files(&plan(&recipe, options(kept_bytes), open).unwrap()) == expected, "{kept_bytes}");
            let counts = counts.borrow();
            let counts = &counts["model.safetensors"];
            assert!(counts.iter().all(|count| (1..=4).contains(count)), "{kept_bytes}\n{recipe}");
            read.push(counts.iter().map(|count| u64::from(*count)).sum::<u64>());
        }
        assert!(
            read.is_sorted_by(|more, less| more >= less) && read[0] > read[2] && read[2] > read[5],
            "{read:?}"
        );
    }
}

/// The next piece, appended.
fn step<S: ByteStream>(stream: &mut S, to: &mut Vec<u8>) -> bool {
    match block_on(stream.next()).unwrap() {
        Some(piece) => {
            to.extend(piece);
            true
        }
        None => false,
    }
}

#[test]
fn two_readers_of_a_quantised_result_do_not_disturb_one_another() {
    let models: BTreeMap<&str, Files> =
        [("a", large(1, Dtype::Bf16).files()), ("b", large(2, Dtype::Bf16).files())].into();
    let recipe =
        "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\n";
    let options = || MergeOptions { quantize: true, chunk_elements: 700, ..MergeOptions::default() };
    let open = |name: &str| MemorySource::new(models[name].clone());
    let expected = files(&plan(recipe, options(), open).unwrap());

    let merge: Merge<MemorySource> = plan(recipe, options(), open).unwrap();
    let weights = "model-00001-of-00002.safetensors";
    let stream = || block_on(merge.open(weights, None)).unwrap().stream;
    let (mut ahead, mut behind) = (stream(), stream());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        step(&mut ahead, &mut first);
    }
    // Both in turns, the one far behind the other, and in the middle of other rows.
    while step(&mut ahead, &mut first) {
        step(&mut behind, &mut second);
    }
    while step(&mut behind, &mut second) {}
    let mut found: Files = [(weights.to_owned(), first), ("config.json".to_owned(), vec![])].into();
    assert!(found[weights] == second);
    let scales = "model-00002-of-00002.safetensors";
    let mut bytes = Vec::new();
    let mut stream = block_on(merge.open(scales, None)).unwrap().stream;
    while step(&mut stream, &mut bytes) {}
    found.insert(scales.to_owned(), bytes);
    found.insert("model.safetensors.index.json".to_owned(), expected["model.safetensors.index.json"].clone());
    assert!(decode(&found) == decode(&expected));
}

/// Bytes that come a few at a time, and only while somebody waits. How far they have come is counted.
#[derive(Clone)]
struct Slow {
    source: MemorySource,
    reached: Rc<Cell<u64>>,
    /// The byte behind which nothing comes any more.
    broken_at: Rc<Cell<u64>>,
}

struct SlowStream {
    bytes: VecDeque<u8>,
    at: u64,
    reached: Rc<Cell<u64>>,
    broken_at: Rc<Cell<u64>>,
}

const PIECE_BYTES: usize = 1000;

/// Is ready the second time it is asked.
async fn wait() {
    let mut waited = false;
    poll_fn(|context| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl ByteSource for Slow {
    type Stream = SlowStream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<SlowStream>, SourceError> {
        let at = range.as_ref().map_or(0, |range| range.start);
        let mut opened = self.source.open(file, range).await?;
        let mut bytes = VecDeque::new();
        while let Some(piece) = opened.stream.next().await? {
            bytes.extend(piece);
        }
        let (reached, broken_at) = (self.reached.clone(), self.broken_at.clone());
        Ok(opened.map(|_| SlowStream { bytes, at, reached, broken_at }))
    }

    async fn turn(&self) {
        wait().await;
    }
}

impl ByteStream for SlowStream {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        wait().await;
        if self.at >= self.broken_at.get() {
            return Err(SourceError::Network { file: "b".to_owned(), detail: "cut".to_owned() });
        }
        let piece: Vec<u8> = self.bytes.drain(..PIECE_BYTES.min(self.bytes.len())).collect();
        self.at += piece.len() as u64;
        self.reached.set(self.reached.get().max(self.at));
        Ok(Some(piece).filter(|piece| !piece.is_empty()))
    }
}

/// Where the data of the weight file begins.
fn own_start(files: &Files) -> u64 {
    let source = MemorySource::new(files.clone());
    block_on(Manifest::read(&source)).unwrap().shards[0].header.data_start
}

#[test]
fn what_comes_next_is_fetched_meanwhile_as_far_as_it_may_be_kept() {
    let models: BTreeMap<&str, Files> =
        [("a", large(1, Dtype::Bf16).files()), ("b", large(2, Dtype::Bf16).files())].into();
    let recipe =
        "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\n";
    let options = |kept_bytes| MergeOptions { kept_bytes, chunk_elements: 1000, ..MergeOptions::default() };
    let in_memory = |name: &str| MemorySource::new(models[name].clone());
    let expected = files(&plan(recipe, options(0), in_memory).unwrap());
    let expected = &expected["model.safetensors"];
    let mut leads = Vec::new();
    for kept_bytes in [0, 300_000, 700_000, u64::MAX] {
        let reached = ["a", "b"].map(|_| Rc::new(Cell::new(0)));
        let open = |name: &str| Slow {
            source: in_memory(name),
            reached: reached[usize::from(name == "b")].clone(),
            broken_at: Rc::new(Cell::new(u64::MAX)),
        };
        let merge = plan(recipe, options(kept_bytes), open);
        let merge = merge.unwrap();
        let manifest = merge.manifest().unwrap();
        let header = &manifest.shards[0].header;
        let mut stream = block_on(merge.open("model.safetensors", None)).unwrap().stream;
        let (mut got, mut lead) = (Vec::new(), 0);
        reached.iter().for_each(|reached| reached.set(0));
        while step(&mut stream, &mut got) {
            // In either parent, the end of the tensor that is computed. Their files are laid out alike.
            let at = (got.len() as u64).saturating_sub(header.data_start + 1);
            let tensor = header.tensors.iter().find(|tensor| at < tensor.end).unwrap();
            let needed = own_start(&models["a"]) + tensor.end;
            lead = lead.max(reached.iter().map(|reached| reached.get().saturating_sub(needed)).sum());
        }
        assert!(got == *expected, "{kept_bytes}");
        assert!(lead <= kept_bytes.saturating_add(4 * PIECE_BYTES as u64), "{lead} of {kept_bytes}");
        leads.push(lead);
    }
    assert!(
        leads.is_sorted() && leads[0] < 4 * PIECE_BYTES as u64 && leads[1] > 10_000 && leads[3] > 400_000,
        "{leads:?}"
    );
}

/// What a parent says of a tensor that is fetched ahead is told when its turn has come, and not before: what
/// was whole is delivered.
#[test]
fn an_error_ahead_is_told_where_it_belongs() {
    let models: BTreeMap<&str, Files> =
        [("a", large(1, Dtype::Bf16).files()), ("b", large(2, Dtype::Bf16).files())].into();
    let recipe =
        "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\n";
    let in_memory = |name: &str| MemorySource::new(models[name].clone());
    let options = |kept_bytes| MergeOptions { kept_bytes, chunk_elements: 1000, ..MergeOptions::default() };
    let expected = files(&plan(recipe, options(0), in_memory).unwrap());
    let expected = &expected["model.safetensors"];
    let broken_at = Rc::new(Cell::new(u64::MAX));
    for kept_bytes in [0, 700_000, u64::MAX] {
        let open = |name: &str| Slow {
            source: in_memory(name),
            reached: Rc::default(),
            broken_at: if name == "b" { broken_at.clone() } else { Rc::new(Cell::new(u64::MAX)) },
        };
        broken_at.set(u64::MAX);
        let merge = plan(recipe, options(kept_bytes), open).unwrap();
        let header = merge.manifest().unwrap().shards[0].header.clone();
        let long =
            |tensor: &&bise::checkpoint::TensorInfo| tensor.end - tensor.begin > 4 * PIECE_BYTES as u64;
        let long: Vec<_> = header.tensors.iter().filter(long).collect();
        for tensor in [long[1], long[long.len() / 2], long[long.len() - 1]] {
            // In the middle of it. The files of the parents are laid out alike.
            broken_at.set(own_start(&models["b"]) + (tensor.begin + tensor.end) / 2);
            let mut stream = block_on(merge.open("model.safetensors", None)).unwrap().stream;
            let mut got = Vec::new();
            let error = loop {
                match block_on(stream.next()) {
                    Ok(piece) => got.extend(piece.expect("an error before the end")),
                    Err(error) => break error,
                }
            };
            let said = error.to_string();
            assert!(said.ends_with("network failure: cut"), "{}: {said}", tensor.name);
            let begin = (header.data_start + tensor.begin) as usize;
            assert_eq!(got.len(), begin, "{}, {kept_bytes}", tensor.name);
            assert!(got == expected[..got.len()], "{}, {kept_bytes}", tensor.name);
        }
        // The merge itself is as good as before.
        broken_at.set(u64::MAX);
        let mut stream = block_on(merge.open("model.safetensors", None)).unwrap().stream;
        let mut got = Vec::new();
        while step(&mut stream, &mut got) {}
        assert!(got == *expected, "{kept_bytes}");
    }
}
