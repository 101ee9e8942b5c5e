//! `bise export`: a model as an FP8 checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use bise::dtype::Dtype;
use serde_json::json;

use crate::command::{bise, error, json as run_json};
use crate::support::{copy_model, folder, manifest, names, read_json, tensors, text};

const TALE: &str = "www/models/tale";

/// Exports into `name`/out; what went to stderr.
fn exported(model: &str, name: &str, more: &[&str]) -> (PathBuf, String) {
    let out = folder(name).join("out");
    let output = bise(&[&["export", model, text(&out)], more].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{stderr}");
    assert_eq!(names(out.parent().unwrap()), ["out"], "nothing lies beside it");
    (out, stderr)
}

#[test]
fn an_export_runs_as_the_model_does_in_fp8() {
    let (out, stderr) = exported(TALE, "export-tale", &[]);
    assert!(!stderr.contains("warning"), "{stderr}");
    let logits = |model: &str, weights: &str| {
        run_json(&["logits", model, "--ids", "1,533,281,262", "--weights", weights, "--json"])
    };
    let expected = logits(TALE, "f8");
    assert_eq!(logits(text(&out), "checkpoint"), expected);
    assert_eq!(logits(text(&out), "f8"), expected);
    assert_ne!(logits(TALE, "checkpoint")["top"], expected["top"]);

    // Saved once more it is the same, file by file.
    let (again, _) = exported(text(&out), "export-again", &[]);
    assert_eq!(names(&again), names(&out));
    for name in names(&out) {
        assert!(fs::read(again.join(&name)).unwrap() == fs::read(out.join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn shards_and_the_report_are_as_for_a_merge() {
    let report = folder("export-report").join("report.json");
    let options = ["--shard-size", "1000000", "--report", text(&report)];
    let (out, _) = exported(TALE, "export-shards", &options);
    let found = manifest(&out);
    assert!(found.shards.len() > 3, "{}", found.shards.len());
    let data = |shard: &bise::checkpoint::Shard| shard.header.file_bytes() - shard.header.data_start;
    assert!(found.shards.iter().all(|shard| data(shard) <= 1_000_000 || shard.header.tensors.len() == 1));
    let (whole, _) = exported(TALE, "export-whole", &[]);
    assert!(tensors(&out) == tensors(&whole));
    let quantized = found.tensors().filter(|(_, info)| info.dtype == Dtype::F8E4m3).count();
    assert_eq!(quantized, 42);
    let report = read_json(report);
    assert_eq!(report["totals"]["tensors"], 57);
    assert_eq!(report["warnings"], json!([]));
}

#[test]
fn fp8_that_is_rounded_once_more_is_told() {
    let (source, _) = exported(TALE, "export-before", &[]);
    // Casts: the codes without their scales, three tensors of them as E5M2.
    let mut config = read_json(source.join("config.json"));
    config.as_object_mut().unwrap().remove("quantization_config");
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    let file = source.join("model-00001-of-00002.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let length = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..length].to_vec()).unwrap();
    assert_eq!(header.matches("F8_E4M3").count(), 42);
    let header = header.replacen("F8_E4M3", "F8_E5M2", 3);
    // Large codes would be infinite there.
    let found = manifest(&source);
    for (_, info) in found.tensors().filter(|(_, info)| info.dtype == Dtype::F8E4m3).take(3) {
        let data = &mut bytes[length + info.begin as usize..length + info.end as usize];
        data.iter_mut().for_each(|code| *code &= 0xbf);
    }
    fs::write(&file, [&bytes[..8], header.as_bytes(), &bytes[length..]].concat()).unwrap();
    let (_, stderr) = exported(text(&source), "export-casts", &[]);
    let warnings: Vec<&str> = stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warnings.len(), 1, "{stderr}");
    assert!(warnings[0].contains("3 FP8 tensors are E5M2"), "{stderr}");
}

/// Asserts that this export fails with these words and leaves nothing.
fn fails(model: &str, parent: &Path, words: &[&str]) {
    let before = names(parent);
    let message = error(&["export", model, text(&parent.join("out"))], 1);
    assert!(message.starts_with("error: ") && message.lines().count() == 1, "{message}");
    assert!(words.iter().all(|word| message.contains(word)), "{message} lacks one of {words:?}");
    assert_eq!(names(parent), before, "{message}");
}

#[test]
fn what_cannot_be_exported_is_refused_and_nothing_is_left() {
    let parent = folder("export-fails");
    fails("nowhere", &parent, &["nowhere is not a directory", "MODEL"]);
    let gguf = folder("export-gguf");
    fails(text(&gguf), &parent, &["config.json", "not found"]);
    fs::write(gguf.join("model-q4.gguf"), "GGUF").unwrap();
    fails(text(&gguf), &parent, &["GGUF", "model-q4.gguf"]);

    // One that breaks off in the middle of its last file, and one with a number that is none.
    let damaged = folder("export-damaged");
    copy_model("tale", &damaged);
    let file = damaged.join("model-00003-of-00003.safetensors");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    fails(text(&damaged), &parent, &["model-00003-of-00003.safetensors", "download it again"]);
    let nan = [&bytes[..bytes.len() - 2], &[0xc0, 0x7f]].concat();
    fs::write(&file, nan).unwrap();
    fails(text(&damaged), &parent, &["model-00003-of-00003.safetensors", "element"]);

    // What is there already is not written over; the model itself least of all.
    fs::create_dir(parent.join("out")).unwrap();
    fs::write(parent.join("out/notes.txt"), "mine").unwrap();
    fails(TALE, &parent, &["not empty"]);
    let message = error(&["export", text(&damaged), text(&damaged)], 1);
    assert!(message.contains("not empty"), "{message}");
    assert!(error(&["export", TALE], 2).contains("OUT_DIR"));
    assert!(error(&["export", TALE, "out", "--shard-size", "many"], 2).contains("--shard-size"));
}
