//! Places to merge into, and what lies in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bise::checkpoint::Manifest;
use bise::checkpoint::source::FileSource;
use pollster::block_on;
use serde_json::Value;

/// The embedded pair's recipe.
pub const RECIPE: &str = "tests/fixtures/recipes/tale-x-case.yml";

/// Where that recipe's models lie.
pub const MODELS: [&str; 4] = ["--model", "./tale=www/models/tale", "--model", "./case=www/models/case"];

/// A folder of the test's own, empty.
pub fn folder(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli_merge").join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The command line of a merge.
pub fn arguments<'a>(recipe: &'a str, out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    [&["merge", recipe, text(out)], more].concat()
}

/// Names in a directory, sorted; hidden ones too.
pub fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap()
}

pub fn manifest(directory: &Path) -> Manifest {
    block_on(Manifest::read(&FileSource::new(directory))).unwrap()
}

/// The bytes of every tensor.
pub fn tensors(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let manifest = manifest(directory);
    let mut tensors = BTreeMap::new();
    for shard in &manifest.shards {
        let file = fs::read(directory.join(&shard.file)).unwrap();
        let data = &file[shard.header.data_start as usize..];
        for info in &shard.header.tensors {
            tensors.insert(info.name.clone(), data[info.begin as usize..info.end as usize].to_vec());
        }
    }
    tensors
}

/// A copy of an embedded model, to be damaged.
pub fn copy_model(model: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("www/models").join(model)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
