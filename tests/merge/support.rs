//! Merges of checkpoints in memory or in a directory, driven to their end.

use std::collections::BTreeMap;
use std::rc::Rc;

use bise::checkpoint::sink::MemorySink;
use bise::checkpoint::source::{FileSource, MemorySource};
use bise::checkpoint::{ByteSource, Manifest};
use bise::merge::{Merge, MergeError, MergeOptions, Parent, Recipe};
use pollster::block_on;

/// A merge of sources that `open` finds by the model's name.
pub fn plan<S: ByteSource + Clone + 'static>(
    text: &str,
    options: MergeOptions,
    open: impl Fn(&str) -> S,
) -> Result<Merge<S>, MergeError> {
    let recipe = Recipe::parse(text)?;
    block_on(async {
        let mut parents = Vec::new();
        for model in recipe.models() {
            let source = open(&model.to_string());
            parents.push(Parent::open(model, source).await?);
        }
        Merge::new(recipe, text, parents, options, Rc::new(|| false), Box::new(|_| ())).await
    })
}

/// Everything a merge writes, by file.
pub fn files<S: ByteSource + Clone + 'static>(merge: &Merge<S>) -> BTreeMap<String, Vec<u8>> {
    let mut sink = MemorySink::default();
    block_on(merge.write(&mut sink, &mut |_| ())).expect("merge");
    sink.files
}

/// The bytes of every tensor of a checkpoint in memory.
pub fn tensors(files: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let manifest = block_on(Manifest::read(&MemorySource::new(files.clone()))).expect("manifest");
    let bytes = |(shard, info): (&bise::checkpoint::Shard, &bise::checkpoint::TensorInfo)| {
        let start = shard.header.data_start;
        let range = (start + info.begin) as usize..(start + info.end) as usize;
        (info.name.clone(), files[&shard.file][range].to_vec())
    };
    manifest.tensors().map(bytes).collect()
}

/// The embedded pair.
pub fn embedded(name: &str) -> FileSource {
    let name = name.trim_start_matches("./");
    FileSource::new(format!("{}/www/models/{name}", env!("CARGO_MANIFEST_DIR")))
}

pub fn fixture(name: &str) -> String {
    std::fs::read_to_string(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).expect(name)
}
