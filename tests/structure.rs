//! The shape of the source tree: floors, what each floor may name, kernels with their twins, file lengths.
//!
//! Every check is a function from a tree of files to a list of complaints, so that each one is also
//! run on a small tree that breaks its rule and must be caught.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::Path;

/// Text of every source file by its path from the top of the repository, `/` between folders.
type Tree = BTreeMap<String, String>;

/// Crates that only some floors may name: wgpu below the decoder, JavaScript at the very top.
const RESERVED: [(&[&str], &[&str]); 2] = [
    (&["wgpu"], &["gpu", "kernels"]),
    (&["wasm_bindgen", "wasm_bindgen_futures", "serde_wasm_bindgen", "web_sys", "js_sys"], &["web"]),
];

/// Longest file by suffix, in lines.
const LONGEST: [(&str, usize); 3] = [(".rs", 450), (".js", 450), (".wgsl", 160)];

fn read_tree() -> Tree {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::new();
    for folder in ["src", "www", "tests"] {
        read_folder(top, &top.join(folder), &mut tree);
    }
    tree
}

fn read_folder(top: &Path, folder: &Path, tree: &mut Tree) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("node_modules") {
                read_folder(top, &path, tree);
            }
        } else if LONGEST.iter().any(|(suffix, _)| path.to_str().unwrap().ends_with(suffix)) {
            let name = path.strip_prefix(top).unwrap().to_str().unwrap().replace('\\', "/");
            tree.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// The floors, bottom first: the order of `pub mod` in lib.rs.
fn floors(tree: &Tree) -> Vec<&str> {
    let lib = tree.get("src/lib.rs").expect("src/lib.rs");
    lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect()
}

/// The modules in the picture in lib.rs's documentation, in its order.
fn pictured_floors(tree: &Tree) -> Vec<&str> {
    let lib = tree.get("src/lib.rs").expect("src/lib.rs");
    let picture = lib.lines().skip_while(|line| !line.starts_with("//! ```text")).skip(1);
    let rows = picture.take_while(|line| !line.starts_with("//! ```"));
    rows.filter_map(|row| row.strip_prefix("//! ")?.split_whitespace().next()).collect()
}

/// The floor that a file belongs to; none for lib.rs and the binary.
fn floor_of(path: &str) -> Option<&str> {
    let module = path.strip_prefix("src/")?.split('/').next()?;
    match module.strip_suffix(".rs").unwrap_or(module) {
        "lib" | "bin" => None,
        floor => Some(floor),
    }
}

/// A Rust file without comments, and without its tests, which may look at any floor.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(""));
    let before_tests = lines.take_while(|line| line.trim_end() != "#[cfg(test)]");
    before_tests.collect::<Vec<_>>().join("\n")
}

fn identifiers(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The first names behind every `crate::`, groups such as `crate::{a::X, b}` included.
fn names_behind_crate(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, marker) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + marker.len()..];
        let (mut depth, mut start) = (0, true);
        for (index, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => start = true,
                c if c.is_whitespace() => {}
                _ if start => {
                    names.extend(identifiers(&rest[index..]).next().map(str::to_owned));
                    start = false;
                }
                _ => {}
            }
            if depth == 0 && !start {
                break;
            }
        }
    }
    names
}

/// How many `super::` the longest chain in this code has.
fn longest_super_chain(code: &str) -> usize {
    (1..).take_while(|&length| code.contains(&"super::".repeat(length))).count()
}

/// Imports that go up instead of down.
fn check_floors(tree: &Tree) -> Vec<String> {
    let floors = floors(tree);
    let height = |name: &str| floors.iter().position(|floor| *floor == name);
    let mut complaints = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let Some(floor) = floor_of(path) else { continue };
        let Some(own) = height(floor) else {
            complaints.push(format!("{path}: no floor {floor} in lib.rs"));
            continue;
        };
        let code = code(text);
        for name in names_behind_crate(&code) {
            match height(&name) {
                None => complaints.push(format!("{path}: crate::{name} is no floor")),
                Some(other) if other > own => complaints.push(format!("{path}: {floor} is below {name}")),
                Some(_) => {}
            }
        }
        // src/gpu/device.rs is crate::gpu::device: one super stays on the floor, two leave it.
        let depth = path.matches('/').count() - usize::from(path.ends_with("/mod.rs"));
        if longest_super_chain(&code) >= depth {
            complaints.push(format!("{path}: super:: leaves the floor; name it from crate::"));
        }
    }
    complaints
}

/// Crates named on floors that must not know them.
fn check_reserved(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".rs")) {
        let Some(floor) = floor_of(path) else { continue };
        let code = code(text);
        for (crates, allowed) in RESERVED {
            let named = identifiers(&code).find(|name| crates.contains(name));
            if let (Some(name), false) = (named, allowed.contains(&floor)) {
                complaints.push(format!("{path}: {name} belongs to {}", allowed.join(" and ")));
            }
        }
    }
    complaints
}

/// The kernels: every .wgsl directly in src/kernels/.
fn kernels(tree: &Tree) -> Vec<&str> {
    let names = tree.keys().filter_map(|path| path.strip_prefix("src/kernels/")?.strip_suffix(".wgsl"));
    names.filter(|name| !name.contains('/')).collect()
}

/// Kernels without their dispatch or their twin.
fn check_kernels(tree: &Tree) -> Vec<String> {
    let wanted = |name: &str| [format!("src/kernels/{name}.rs"), format!("src/reference/{name}.rs")];
    let files = kernels(tree).into_iter().flat_map(wanted);
    files.filter(|file| !tree.contains_key(file)).map(|file| format!("{file} is missing")).collect()
}

/// Files that hold two ideas.
fn check_lengths(tree: &Tree) -> Vec<String> {
    let limit =
        |path: &str| LONGEST.iter().find(|(suffix, _)| path.ends_with(suffix)).map(|(_, limit)| *limit);
    let too_long = |(path, text): (&String, &String)| {
        let (lines, limit) = (text.lines().count(), limit(path)?);
        (lines >= limit).then(|| format!("{path}: {lines} lines, fewer than {limit} wanted"))
    };
    tree.iter().filter_map(too_long).collect()
}

#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn modules_import_only_from_the_floors_below() {
    let tree = read_tree();
    assert!(floors(&tree).len() > 5 && tree.len() > 10, "found {:?} in {} files", floors(&tree), tree.len());
    none(check_floors(&tree));
}

#[test]
fn the_picture_in_lib_rs_is_the_module_list() {
    let tree = read_tree();
    assert_eq!(pictured_floors(&tree), floors(&tree));
}

#[test]
fn wgpu_and_javascript_stay_on_their_floors() {
    none(check_reserved(&read_tree()));
}

#[test]
fn every_kernel_has_its_dispatch_and_its_twin() {
    let tree = read_tree();
    assert!(!kernels(&tree).is_empty(), "no kernels in src/kernels/");
    none(check_kernels(&tree));
}

#[test]
fn files_stay_short() {
    none(check_lengths(&read_tree()));
}

// Negative controls: each rule broken once.

/// A lib.rs with the floors low, gpu, kernels, model and web, and one more file.
fn tree_with(path: &str, text: &str) -> Tree {
    let lib = "pub mod low;\npub mod gpu;\npub mod kernels;\npub mod model;\npub mod web;\n";
    [("src/lib.rs", lib), (path, text)].map(|(path, text)| (path.to_owned(), text.to_owned())).into()
}

#[test]
fn an_import_from_above_is_caught() {
    for (path, text, caught) in [
        ("src/low.rs", "use crate::gpu::Device;", 1),
        ("src/low.rs", "fn f() -> crate::model::Config {}", 1),
        ("src/gpu/mod.rs", "use crate::{low, model::{A, B}, web};", 2),
        ("src/gpu/mod.rs", "use crate::{\n    low::X,\n    model,\n};", 1),
        ("src/gpu/mod.rs", "pub(crate) use crate::Config;", 1),
        ("src/gpu/mod.rs", "use super::model::Config;", 1),
        ("src/gpu/tensor.rs", "use super::super::model::Config;", 1),
        ("src/attic/mod.rs", "", 1),
        ("src/gpu/mod.rs", "use crate::low::{A, B};\nuse crate::gpu::tensor;\n// use crate::model;", 0),
        ("src/gpu/tensor.rs", "use super::device::Device;\n/// [`crate::model`]\npub struct X;", 0),
        ("src/gpu/tensor.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n    use crate::model::X;\n}", 0),
    ] {
        let complaints = check_floors(&tree_with(path, text));
        assert_eq!(complaints.len(), caught, "{path}: {text}: {complaints:?}");
    }
}

#[test]
fn a_crate_on_the_wrong_floor_is_caught() {
    for (path, text, caught) in [
        ("src/model/mod.rs", "use wgpu::Device;", 1),
        ("src/low.rs", "fn f(x: &web_sys::Response) {}", 1),
        ("src/gpu/mod.rs", "use wasm_bindgen::JsValue;", 1),
        ("src/web/mod.rs", "fn f(x: wgpu::Limits) {}", 1),
        ("src/gpu/mod.rs", "use wgpu::Device;", 0),
        ("src/web/mod.rs", "use wasm_bindgen::JsValue;", 0),
        ("src/model/mod.rs", "// wgpu is not known here\nlet not_wgpu_either = 1;", 0),
    ] {
        let complaints = check_reserved(&tree_with(path, text));
        assert_eq!(complaints.len(), caught, "{path}: {text}: {complaints:?}");
    }
}

#[test]
fn a_kernel_without_its_twin_is_caught() {
    let mut tree = tree_with("src/kernels/matvec.wgsl", "");
    assert_eq!(
        check_kernels(&tree),
        ["src/kernels/matvec.rs is missing", "src/reference/matvec.rs is missing"]
    );
    tree.insert("src/kernels/matvec.rs".into(), String::new());
    tree.insert("src/reference/matvec.rs".into(), String::new());
    tree.insert("src/kernels/shared/fp8.wgsl".into(), String::new());
    assert!(check_kernels(&tree).is_empty());
}

#[test]
fn a_long_file_is_caught() {
    for (path, lines) in [("src/gpu/mod.rs", 450), ("www/main.js", 450), ("src/kernels/x.wgsl", 160)] {
        assert_eq!(check_lengths(&tree_with(path, &"\n".repeat(lines))).len(), 1, "{path}");
        assert!(check_lengths(&tree_with(path, &"\n".repeat(lines - 1))).is_empty(), "{path}");
    }
}
