//! The command line: what scripts rely on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

#[path = "common/command.rs"]
mod command;

use std::path::Path;
use std::process::Command;

use bise::checkpoint::Header;
use command::{bise, error, json};

const TALE: &str = "www/models/tale";

#[test]
fn generate_prints_one_object() {
    let prompt = "The old man opened the door and";
    let value =
        json(&["generate", TALE, "--prompt", prompt, "--temperature", "0", "--max-tokens", "8", "--json"]);
    assert_eq!(value["ids"], serde_json::json!([533, 281, 262, 688, 1966, 13, 1954, 2007]));
    assert_eq!(value["text"], "went to the door.\n\"W");
    assert_eq!(value["finish_reason"], "length");
    assert_eq!(value["prompt_ids"].as_array().unwrap().len(), 8);
    assert!(value["timings"]["tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_cpu_gives_the_same_when_it_is_asked_for() {
    let prompt = "The old man opened the door and";
    let generate =
        ["generate", TALE, "--prompt", prompt, "--temperature", "0", "--max-tokens", "8", "--json"];
    let value = json(&[&generate[..], &["--backend", "cpu"]].concat());
    assert_eq!(value["ids"], serde_json::json!([533, 281, 262, 688, 1966, 13, 1954, 2007]));
    let value = json(&["logits", TALE, "--ids", "1,2,3", "--backend", "cpu", "--json"]);
    assert!(value["adapter"].as_str().unwrap().contains("CPU"), "{value}");
    error(&["logits", TALE, "--ids", "1", "--backend", "npu"], 2);
}

/// Other logits in half the memory, where it is asked for.
#[test]
fn keys_and_values_may_be_fp8() {
    let logits = |more: &[&str]| {
        let ids = ["logits", TALE, "--ids", "1,2,3,4,5", "--backend", "cpu", "--json"];
        json(&[&ids[..], more].concat())["norm"].as_f64().unwrap()
    };
    let (usual, wide, narrow) = (logits(&[]), logits(&["--kv-cache", "f16"]), logits(&["--kv-cache", "f8"]));
    assert_eq!(usual, wide);
    assert!(narrow != wide && (narrow / wide - 1.0).abs() < 0.05, "{narrow} and {wide}");
    for backend in ["cpu", "webgpu"] {
        let bytes = |form| {
            let arguments = ["inspect", TALE, "--backend", backend, "--kv-cache", form, "--json"];
            json(&arguments)["kv_cache_bytes"].as_u64().unwrap()
        };
        let (wide, narrow) = (bytes("f16"), bytes("f8"));
        assert!(narrow * 100 < wide * 63 && narrow * 2 > wide, "{backend}: {narrow} of {wide}");
    }
    error(&["logits", TALE, "--ids", "1", "--kv-cache", "f4"], 2);
}

#[test]
fn generate_streams_text_and_seeds_repeat() {
    let run = |seed: &str| {
        let arguments = [
            "generate",
            TALE,
            "--prompt",
            "Once",
            "--max-tokens",
            "8",
            "--seed",
            seed,
            "--temperature",
            "1",
            "--weights",
            "f8",
        ];
        String::from_utf8(bise(&arguments).stdout).unwrap()
    };
    let first = run("5");
    assert!(first.trim().len() > 5, "{first}");
    assert_eq!(first, run("5"));
    assert_ne!(first, run("6"));
}

#[test]
fn logits_need_no_tokenizer() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-tokenizer");
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(TALE)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name == "config.json" || name.starts_with("model") {
            std::fs::copy(&path, folder.join(name)).unwrap();
        }
    }
    let value = json(&["logits", folder.to_str().unwrap(), "--ids", "1,2,3", "--top", "3", "--json"]);
    assert_eq!(value["top"].as_array().unwrap().len(), 3);
    assert_eq!(value["top"][0][0], 1964);
    for key in ["sum", "norm"] {
        assert!(value[key].as_f64().unwrap().is_finite());
    }
    assert!(!value["adapter"].as_str().unwrap().is_empty());
    let text = error(&["generate", folder.to_str().unwrap(), "--prompt", "x", "--json"], 1);
    assert!(text.starts_with("error: ") && text.contains("tokenizer"), "{text}");
}

/// Copies tale, with the final norm's weights set to `value`.
fn tale_with_final_norm(name: &str, value: f32) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(TALE)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        if file.ends_with(".safetensors") {
            let json_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header = Header::parse(file, &bytes[8..8 + json_bytes]).unwrap();
            for info in header.tensors.iter().filter(|info| info.name == "model.norm.weight") {
                let start = 8 + json_bytes;
                let range = start + info.begin as usize..start + info.end as usize;
                let [_, _, low, high] = value.to_le_bytes();
                bytes[range].chunks_exact_mut(2).for_each(|bf16| bf16.copy_from_slice(&[low, high]));
            }
        }
        std::fs::write(folder.join(file), bytes).unwrap();
    }
    folder.to_str().unwrap().to_owned()
}

/// Weights may be finite and what comes of them not: that is an error, never `null` in JSON.
#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let good = tale_with_final_norm("norm-of-one", 1.0);
    assert!(json(&["logits", &good, "--ids", "1,2", "--json"])["norm"].as_f64().unwrap() > 0.0);
    let huge = tale_with_final_norm("norm-too-large", 3e38);
    let text = error(&["logits", &huge, "--ids", "1,2", "--json"], 1);
    assert!(text.contains("logit of token"), "{text}");
}

#[test]
fn a_weight_that_is_no_number_is_named_with_its_file() {
    let damaged = tale_with_final_norm("norm-not-a-number", f32::NAN);
    let text = error(&["logits", &damaged, "--ids", "1,2", "--json"], 1);
    assert!(text.contains("model.norm.weight") && text.contains("-of-00003.safetensors"), "{text}");
}

#[test]
fn tokenize_needs_only_the_tokenizer() {
    let value = json(&["tokenize", "tests/fixtures/mistral7b", "Hello, world!", "--json"]);
    assert_eq!(value["text"], "Hello, world!");
    assert_eq!(value["ids"], serde_json::json!([1, 22557, 28725, 1526, 28808]));
    let bare = json(&["tokenize", "tests/fixtures/mistral7b", "Hello, world!", "--no-special", "--json"]);
    assert_eq!(bare["ids"], serde_json::json!([22557, 28725, 1526, 28808]));
}

#[test]
fn inspect_describes_a_checkpoint() {
    let value = json(&["inspect", TALE, "--json"]);
    assert_eq!(value["architecture"], "mistral");
    assert_eq!(value["parameters"], 3_148_224);
    assert_eq!(value["sliding_window"], 128);
    assert_eq!(value["shards"], 3);
    assert_eq!(value["tensors"]["BF16"], 57);
    assert!(value["device_bytes_f8"].as_u64() < value["device_bytes"].as_u64());
    // Memory by purpose, at the context asked for and on the adapter that is there.
    let sum = ["device_bytes", "kv_cache_bytes", "activation_bytes"].map(|key| value[key].as_u64().unwrap());
    assert_eq!(value["total_bytes"], sum.iter().sum::<u64>());
    assert_eq!((&value["dtype"], &value["weights"]), (&"BF16".into(), &"checkpoint".into()));
    assert_eq!(value["problems"], serde_json::json!([]));
    let short = json(&["inspect", TALE, "--weights", "f8", "--context", "64", "--json"]);
    assert_eq!(short["kv_cache_bytes"], 6 * 64 * 64 * 4);
    assert!(short["total_bytes"].as_u64() < value["total_bytes"].as_u64());
    // The same limits that a load meets.
    let mut command = Command::new(env!("CARGO_BIN_EXE_bise"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("BISE_LIMITS", "600");
    let output =
        command.args(["inspect", TALE, "--context", "64", "--backend", "webgpu", "--json"]).output().unwrap();
    let tight: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = tight["problems"].to_string();
    assert!(problems.contains("a row of model.layers.0.mlp.down_proj.weight needs 1024 bytes"), "{problems}");
    assert!(problems.contains("keys of 4 at most") && problems.contains("an activation needs"), "{problems}");
    assert_eq!(tight["backend"], "webgpu");
    assert!(String::from_utf8(bise(&["inspect", TALE]).stdout).unwrap().contains("3148224"));
    let on_cpu = json(&["inspect", TALE, "--backend", "cpu", "--json"]);
    assert_eq!((&on_cpu["backend"], &on_cpu["backend_reason"]), (&"cpu".into(), &serde_json::Value::Null));
    assert_eq!(on_cpu["problems"], serde_json::json!([]));
}

#[test]
fn errors_are_one_line_with_the_right_status() {
    for (arguments, status, named) in [
        (vec!["generate", "nowhere", "--prompt", "x"], 1, "nowhere"),
        (vec!["generate", "tests/fixtures/smollm2", "--prompt", "x"], 1, "model.safetensors"),
        (vec!["logits", TALE, "--ids", "1,99999", "--json"], 1, "99999"),
        (vec!["generate", TALE, "--prompt", "x", "--temperature", "-1"], 1, "temperature"),
        (vec!["generate", TALE, "--prompt", "x", "--context", "513"], 1, "512"),
        (vec!["generate", TALE], 2, "--prompt"),
        (vec!["logits", TALE, "--ids", "one"], 2, "one"),
        (vec!["frobnicate"], 2, "frobnicate"),
    ] {
        let text = error(&arguments, status);
        assert!(text.starts_with("error: "), "{arguments:?}: {text}");
        assert!(text.contains(named), "{arguments:?}: {text}");
        assert!(status == 2 || text.lines().count() == 1, "{arguments:?}: {text}");
    }
}

#[test]
fn an_adapter_that_is_not_there_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bise"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("BISE_ADAPTER", "no such adapter");
    let output = command.args(["logits", TALE, "--ids", "1"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("no such adapter"), "{stderr}");
}

/// The user's cache folder has what tuning chose; whatever else lies there is no error.
#[test]
fn what_tuning_chose_is_taken_up_and_left_alone() {
    let weights = bise::engine::WeightMode::Checkpoint;
    let gpu = bise::gpu::GpuOptions { adapter: std::env::var("BISE_ADAPTER").ok(), ..Default::default() };
    let options = bise::engine::LoadOptions {
        backend: bise::engine::BackendChoice::Webgpu,
        autotune: Some(true),
        tuning_ms: Some(0),
        weights,
        gpu,
        ..Default::default()
    };
    let source = bise::checkpoint::source::FileSource::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(TALE));
    let engine = pollster::block_on(bise::engine::Engine::load(&source, &options, &mut |_| (), &|| false));
    let tuning = engine.unwrap().info().tuning;
    let mut choice = tuning.choice;
    // What no measurement comes to.
    *choice.last_mut().unwrap() = 7;
    let folder = std::env::temp_dir().join(format!("bise-cli-tuning-{}", std::process::id()));
    let file = folder.join("bise/tuning.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let run = |arguments: &[&str]| {
        let generate = ["generate", TALE, "--ids", "1,2,3", "--max-tokens", "2", "--json"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_bise"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env("XDG_CACHE_HOME", &folder);
        let output = command.args(generate).args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let held = serde_json::json!({ &tuning.key: choice }).to_string();
    std::fs::write(&file, &held).unwrap();
    assert_eq!(run(&["--autotune", "--backend", "webgpu"]).0, 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), held, "nothing was timed");
    std::fs::write(&file, "{\"torn").unwrap();
    let (status, stderr) = run(&["--autotune", "--backend", "webgpu"]);
    assert_eq!(status, 0, "{stderr}");
    let (status, stderr) = run(&["--autotune", "--backend", "cpu"]);
    assert!(status == 1 && stderr.contains("error: ") && stderr.contains("autotune"), "{stderr}");
    std::fs::remove_dir_all(folder).unwrap();
}
