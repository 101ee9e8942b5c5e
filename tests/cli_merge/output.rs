//! The merged checkpoint.

use std::fs;
use std::path::Path;

use bise::dtype::Dtype;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::command::{bise, error, json as run_json};
use crate::support::{MODELS, RECIPE, arguments, folder, manifest, names, read_json, tensors, text};

/// Merges the embedded pair into `name`/out.
fn merged(name: &str, more: &[&str]) -> std::path::PathBuf {
    let out = folder(name).join("out");
    let output = bise(&arguments(RECIPE, &out, &[&MODELS[..], more].concat()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty());
    out
}

#[test]
fn a_merge_is_an_ordinary_checkpoint() {
    let out = merged("ordinary", &[]);
    let expected = [
        "README.md",
        "config.json",
        "generation_config.json",
        "mergekit_config.yml",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names(&out), expected);
    // Nothing lies beside it.
    assert_eq!(names(out.parent().unwrap()), ["out"]);

    // The base's files as they are, and the recipe as given.
    let from_top = |path: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    for file in
        ["generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    {
        assert!(fs::read(out.join(file)).unwrap() == from_top(&format!("www/models/tale/{file}")), "{file}");
    }
    assert!(fs::read(out.join("mergekit_config.yml")).unwrap() == from_top(RECIPE));

    let mut config = read_json(Path::new(env!("CARGO_MANIFEST_DIR")).join("www/models/tale/config.json"));
    config["dtype"] = json!("bfloat16");
    config["torch_dtype"] = json!("bfloat16");
    assert_eq!(read_json(out.join("config.json")), config);

    let card = fs::read_to_string(out.join("README.md")).unwrap();
    let front = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap().0;
    for line in ["base_model:", "- \"./tale\"", "- \"./case\"", "library_name: transformers", "- mergekit"] {
        assert!(front.lines().any(|found| found == line), "{line}\n{front}");
    }

    // Every tensor has mergekit's shape; those that mergekit's own rounding leaves certain, its bits.
    let golden = read_json(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden.json"));
    let golden = &golden["merge"];
    let tensors = tensors(&out);
    assert_eq!(tensors.len(), golden["tensor_sha256"].as_object().unwrap().len());
    let mut same = 0;
    for (name, bytes) in &tensors {
        let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        same += usize::from(golden["tensor_sha256"][name] == hash);
    }
    assert!(same * 2 > tensors.len(), "only {same} of {} tensors are mergekit's", tensors.len());
    for (_, info) in manifest(&out).tensors() {
        assert_eq!(json!(info.shape), golden["tensor_shape"][&info.name], "{}", info.name);
        assert_eq!(info.dtype, Dtype::Bf16, "{}", info.name);
    }

    // It runs, as golden.json says.
    let golden = read_json(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden.json"));
    let case = &golden["models"]["merged"][0];
    let ids: Vec<String> = case["input_ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    let logits = run_json(&["logits", text(&out), "--ids", &ids.join(","), "--json"]);
    assert_eq!(logits["top"][0][0], case["top20"][0][0]);
    let (got, wanted) = (&logits["top"][0][1], &case["top20"][0][1]);
    assert!((got.as_f64().unwrap() / wanted.as_f64().unwrap() - 1.0).abs() < 5e-3, "{got}, not {wanted}");
}

#[test]
fn the_report_tells_of_every_tensor() {
    let report = folder("report").join("report.json");
    let out = merged("reported", &["--report", text(&report)]);
    let report = read_json(report);
    let reported = report["tensors"].as_array().unwrap();
    let tensors = tensors(&out);
    let golden = read_json(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden.json"));
    assert_eq!(reported.len(), tensors.len());
    for entry in reported {
        let name = entry["tensor"].as_str().unwrap();
        assert!(tensors.contains_key(name), "{name}");
        let facts = &golden["merge"]["exactness"]["tensors"][name];
        assert_eq!(entry["method"], "slerp", "{name}");
        assert_eq!(entry["branch"], facts["branch"], "{name}");
        for key in ["t", "dot"] {
            let (got, wanted) = (entry[key].as_f64().unwrap(), facts[key].as_f64().unwrap());
            assert!((got - wanted).abs() < 1e-9, "{name}: {key} is {got}, not {wanted}");
        }
        assert_eq!(entry["sources"], json!([format!("./tale: {name}"), format!("./case: {name}")]));
        assert_eq!(entry["coefficients"].as_array().unwrap().len(), 2, "{name}");
        let norms: Vec<f64> =
            entry["norms"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect();
        assert!(norms.len() == 2 && norms.iter().all(|norm| *norm > 0.0), "{name}: {norms:?}");
        let far = entry["distances"].as_array().unwrap();
        // t = 0 is the base itself, t = 1 the other.
        for (t, index) in [(0.0, 0), (1.0, 1)] {
            let distance = far[index].as_f64().unwrap();
            assert_eq!(entry["t"] == t, distance < 1e-9 * norms[index], "{name}: {distance}");
        }
    }
    assert_eq!(report["totals"]["tensors"], 57);
    assert_eq!(report["totals"]["parameters"], 3_148_224);
    let branches = |key: &str| report["totals"][key].as_u64().unwrap();
    assert_eq!(branches("spherical") + branches("linear"), 57);
    assert_eq!(report["warnings"], json!([]));
}

/// Names of a model's tensors in the order in which they are distributed over shards.
fn in_order(layers: usize) -> Vec<String> {
    let parts = [
        "input_layernorm",
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "post_attention_layernorm",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ];
    let layers = (0..layers).flat_map(|n| parts.map(|part| format!("model.layers.{n}.{part}.weight")));
    let first = ["model.embed_tokens.weight".to_owned()].into_iter();
    first.chain(layers).chain(["model.norm.weight".to_owned(), "lm_head.weight".to_owned()]).collect()
}

#[test]
fn shards_end_where_the_next_tensor_would_overflow_them() {
    let whole = tensors(&merged("whole", &[]));
    for limit in [1_000_000, 2_000_000, 1] {
        let out = merged(&format!("shards-{limit}"), &["--shard-size", &limit.to_string()]);
        // The definition, over the sizes of an unsharded merge.
        let mut expected: Vec<Vec<String>> = vec![vec![]];
        let mut bytes = 0;
        for name in in_order(6) {
            let size = whole[&name].len();
            if bytes + size > limit && !expected.last().unwrap().is_empty() {
                expected.push(vec![]);
                bytes = 0;
            }
            bytes += size;
            expected.last_mut().unwrap().push(name);
        }
        assert!(expected.len() > 3, "{limit}");
        expected.iter_mut().for_each(|shard| shard.sort());

        let manifest = manifest(&out);
        let found: Vec<(String, Vec<String>)> = manifest
            .shards
            .iter()
            .map(|shard| {
                let names = shard.header.tensors.iter().map(|tensor| tensor.name.clone());
                (shard.file.clone(), names.collect())
            })
            .collect();
        let count = expected.len();
        for (number, (expected, (file, found))) in expected.iter().zip(&found).enumerate() {
            assert_eq!(*file, format!("model-{:05}-of-{count:05}.safetensors", number + 1));
            // All have one dtype, so they are ordered by name.
            assert_eq!(found, expected, "{file}, {limit} bytes");
        }
        assert_eq!(found.len(), count, "{limit}");
        let index = read_json(out.join("model.safetensors.index.json"));
        assert_eq!(index["metadata"]["total_size"], whole.values().map(Vec::len).sum::<usize>());
        assert!(!names(&out).contains(&"model.safetensors".to_owned()));
        assert!(tensors(&out) == whole, "{limit}: other bytes than unsharded");
    }
}

#[test]
fn fp8_output_is_compressed_tensors_and_runs() {
    let (wide, narrow) = (merged("wide", &[]), merged("fp8", &["--f8"]));
    let quantization = read_json(narrow.join("config.json"))["quantization_config"].take();
    assert_eq!(quantization["quant_method"], "compressed-tensors");
    assert_eq!(quantization["format"], "naive-quantized");
    assert_eq!(quantization["ignore"], json!(["lm_head"]));
    let group = &quantization["config_groups"]["group_0"];
    assert_eq!(group["targets"], json!(["Linear"]));
    assert_eq!(group["input_activations"], Value::Null);
    let weights = &group["weights"];
    assert_eq!(
        [&weights["num_bits"], &weights["type"], &weights["strategy"], &weights["symmetric"]],
        [&json!(8), &json!("float"), &json!("channel"), &json!(true)]
    );

    let manifest = manifest(&narrow);
    let mut quantized = 0;
    for (_, info) in manifest.tensors().filter(|(_, info)| !info.name.ends_with("_scale")) {
        let linear = info.name.contains("_proj.");
        assert_eq!(info.dtype, if linear { Dtype::F8E4m3 } else { Dtype::Bf16 }, "{}", info.name);
        let scale = manifest.get(&format!("{}_scale", info.name)).map(|(_, info)| info);
        let expected = linear.then(|| (Dtype::F32, vec![info.shape[0], 1]));
        assert_eq!(scale.map(|scale| (scale.dtype, scale.shape.clone())), expected, "{}", info.name);
        quantized += usize::from(linear);
    }
    assert_eq!(quantized, 42);

    // Quantised while merging or while loading: the same rows, the same scales, the same codes.
    let logits = |model: &Path, weights: &str| {
        run_json(&["logits", text(model), "--ids", "1,533,281,262", "--weights", weights, "--json"])
    };
    let stored = logits(&narrow, "checkpoint");
    let loaded = logits(&wide, "f8");
    let exact = logits(&wide, "checkpoint");
    let norm = |value: &Value| value["norm"].as_f64().unwrap();
    let apart = |a: &Value, b: &Value| {
        let pairs = |value: &Value| -> Vec<(u64, f64)> {
            let top = value["top"].as_array().unwrap().iter();
            top.map(|pair| (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap())).collect()
        };
        let b = pairs(b);
        let far = |(id, logit): (u64, f64)| {
            b.iter().find(|(other, _)| *other == id).map_or(0.0, |(_, other)| (logit - other).abs())
        };
        let largest = b.iter().map(|(_, logit)| logit.abs()).fold(0.0, f64::max);
        pairs(a).into_iter().map(far).fold(0.0, f64::max) / largest
    };
    let (same, near) = (apart(&stored, &loaded), apart(&stored, &exact));
    println!("stored and loaded as f8: {same:.1e} apart; from bf16 {near:.1e}");
    assert!(same < 1e-5, "{same}");
    assert!(near > 1e-5 && near < 0.05, "{near}");
    assert!((norm(&stored) / norm(&exact) - 1.0).abs() < 0.05);
}

#[test]
fn a_directory_that_is_not_empty_is_left_alone() {
    let out = folder("full");
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let message = error(&arguments(RECIPE, &out, &MODELS), 1);
    assert!(message.starts_with("error: ") && message.contains("not empty"), "{message}");
    assert_eq!(names(&out), ["notes.txt"]);
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    // One that is there and empty is taken.
    fs::remove_file(out.join("notes.txt")).unwrap();
    assert!(bise(&arguments(RECIPE, &out, &MODELS)).status.success());
    assert!(names(&out).contains(&"config.json".to_owned()));
    // A file in its place is no directory.
    let file = folder("file").join("out");
    fs::write(&file, "mine").unwrap();
    let message = error(&arguments(RECIPE, &file, &MODELS), 1);
    assert!(message.contains(text(&file)), "{message}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn models_lie_where_the_recipe_or_the_caller_says() {
    // Beside the recipe.
    let beside = folder("beside");
    let text_of = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(RECIPE)).unwrap();
    let recipe = beside.join("recipe.yml");
    fs::write(&recipe, &text_of).unwrap();
    for model in ["tale", "case"] {
        crate::support::copy_model(model, &beside.join(model));
    }
    let out = beside.join("out");
    assert!(bise(&arguments(text(&recipe), &out, &[])).status.success());
    assert!(tensors(&out) == tensors(&merged("named", &[])));
    // A name that the recipe has not is a slip.
    let typo = ["--model", "./tail=www/models/tale"];
    let message = error(&arguments(text(&recipe), &beside.join("other"), &typo), 1);
    assert!(message.contains("./tail"), "{message}");
}
