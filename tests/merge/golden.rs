//! tale-x-case: every tensor against mergekit's hashes, and against a merge in f64 that is itself
//! checked against the hashes of one.

use std::collections::BTreeMap;

use bise::merge::MergeOptions;
use half::bf16;
use pollster::block_on;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::support::{embedded, files, fixture, plan, tensors};

const RECIPE: &str = "recipes/tale-x-case.yml";

fn golden() -> Value {
    serde_json::from_str::<Value>(&fixture("golden.json")).unwrap()["merge"].take()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parent(name: &str) -> BTreeMap<String, Vec<u8>> {
    let manifest = block_on(bise::checkpoint::Manifest::read(&embedded(name))).unwrap();
    let directory = format!("{}/www/models/{name}", env!("CARGO_MANIFEST_DIR"));
    let read =
        |shard: &bise::checkpoint::Shard| std::fs::read(format!("{directory}/{}", shard.file)).unwrap();
    let files: BTreeMap<String, Vec<u8>> =
        manifest.shards.iter().map(|shard| (shard.file.clone(), read(shard))).collect();
    let slice = |(shard, info): (&bise::checkpoint::Shard, &bise::checkpoint::TensorInfo)| {
        let start = shard.header.data_start;
        let range = (start + info.begin) as usize..(start + info.end) as usize;
        (info.name.clone(), files[&shard.file][range].to_vec())
    };
    manifest.tensors().map(slice).collect()
}

fn floats(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f64()).collect()
}

/// The definition, in f64 with one rounding at the end.
fn slerp_f64(a: &[f64], b: &[f64], t: f64) -> (Vec<bf16>, f64, &'static str) {
    let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
    let cosine = a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() / (norm(a) * norm(b));
    let (c0, c1, branch) = if cosine.abs() > 0.9995 {
        (1.0 - t, t, "linear")
    } else {
        let angle = cosine.clamp(-1.0, 1.0).acos();
        let factor = |share: f64| (share * angle).sin() / angle.sin();
        (factor(1.0 - t), factor(t), "spherical")
    };
    // torch rounds to bf16 by way of f32.
    let round = |value: f64| bf16::from_f32(value as f32);
    (a.iter().zip(b).map(|(x, y)| round(c0 * x + c1 * y)).collect(), cosine, branch)
}

#[test]
fn every_tensor_agrees_with_mergekit() {
    let merge = plan(&fixture(RECIPE), MergeOptions::default(), embedded).unwrap();
    let merged = tensors(&files(&merge));
    let report = merge.report();
    let golden = golden();
    let (tale, case) = (parent("tale"), parent("case"));
    let expected = golden["tensor_sha256"].as_object().unwrap();
    assert_eq!(merged.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let (mut elements, mut different) = (0, 0);
    let (mut oracles, mut equal_to_mergekit) = (0, 0);
    for (name, bytes) in &merged {
        let facts = &golden["exactness"]["tensors"][name];
        let t = facts["t"].as_f64().unwrap();
        let found = report.tensors.iter().find(|found| found.tensor == *name).unwrap();
        let slerp = found.slerp.as_ref().unwrap();
        assert!((slerp.t - t).abs() < 1e-12, "{name}: t is {}, not {t}", slerp.t);
        let dot = facts["dot"].as_f64().unwrap();
        assert!((slerp.dot - dot).abs() < 1e-12, "{name}: dot is {}, not {dot}", slerp.dot);
        let branch = facts["branch"].as_str().unwrap();
        assert_eq!(format!("{:?}", slerp.branch).to_lowercase(), branch, "{name}");

        // The oracle first: its hash is known.
        let (oracle, ..) = slerp_f64(&floats(&tale[name]), &floats(&case[name]), t);
        let oracle: Vec<u8> = oracle.iter().flat_map(|v| v.to_le_bytes()).collect();
        oracles += usize::from(sha256(&oracle) == facts["float64_sha256"].as_str().unwrap());

        let same = sha256(bytes) == expected[name].as_str().unwrap();
        equal_to_mergekit += usize::from(same);
        // Where f64 and mergekit's f32 agree on every element, so must anything in between.
        let certain = facts["elements_that_differ_from_mergekit"] == 0;
        if t == 0.0 || t == 1.0 || branch == "linear" || certain {
            assert!(same, "{name}: t {t}, {branch}: other bits than mergekit's");
        }
        let pairs = bytes.as_chunks::<2>().0.iter().zip(oracle.as_chunks::<2>().0);
        for (ours, exact) in pairs {
            elements += 1;
            let (ours, exact) = (i16::from_le_bytes(*ours), i16::from_le_bytes(*exact));
            let ulps = (i32::from(ours) - i32::from(exact)).abs();
            different += usize::from(ulps > 0);
            assert!(ulps <= 1, "{name}: {ulps} ulps");
        }
    }
    println!(
        "{oracles} oracles have the hash of theirs, {equal_to_mergekit} of {} tensors that of mergekit's; \
         {different} of {elements} elements are an ulp from f64",
        merged.len()
    );
    assert_eq!(oracles, merged.len(), "an oracle that is not confirmed proves nothing");
    assert!(different * 1000 <= elements, "{different} of {elements} elements differ");
}

/// What browsers are held against: the CPU gives the same bits everywhere.
#[test]
fn the_recorded_hashes_are_those_of_this_merge() {
    let merge = plan(&fixture(RECIPE), MergeOptions::default(), embedded).unwrap();
    let found = tensors(&files(&merge)).into_iter().map(|(name, bytes)| (name, sha256(&bytes).into()));
    let recorded: Value = serde_json::from_str(&fixture("vectors/merged_cpu.json")).unwrap();
    assert_eq!(Value::Object(found.collect()), recorded["tensor_sha256"]);
}

#[test]
fn chunks_and_shards_do_not_show() {
    let text = fixture(RECIPE);
    let whole = tensors(&files(&plan(&text, MergeOptions::default(), embedded).unwrap()));
    for (chunk_elements, shard_bytes) in [(1000, 1 << 20), (7, 1 << 22), (1 << 24, 1)] {
        let options = MergeOptions { chunk_elements, shard_bytes, ..MergeOptions::default() };
        let cut = tensors(&files(&plan(&text, options, embedded).unwrap()));
        assert_eq!(whole.len(), cut.len());
        for (name, bytes) in &whole {
            assert!(cut[name] == *bytes, "{name} in chunks of {chunk_elements}");
        }
    }
}
