//! A merge that fails leaves nothing behind.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::error;
use crate::support::{MODELS, RECIPE, arguments, copy_model, folder, manifest, names, text};

/// Asserts that this merge into `parent`/out fails, saying `words`, and that nothing is left.
fn fails(parent: &Path, recipe: &str, more: &[&str], words: &[&str]) {
    let before = names(parent);
    let message = error(&arguments(recipe, &parent.join("out"), more), 1);
    assert!(message.starts_with("error: ") && message.lines().count() == 1, "{message}");
    for word in words {
        assert!(message.contains(word), "{message} lacks {word}");
    }
    assert_eq!(names(parent), before, "{message}");
}

#[test]
fn a_bad_recipe_is_one_line_with_its_place() {
    let parent = folder("bad-recipe");
    let recipe = parent.join("recipe.yml");
    let good = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(RECIPE)).unwrap();
    for (from, to, words) in [
        ("merge_method: slerp", "merge_method: ties", ["line 7: merge_method", "ties"]),
        ("layer_range: [0, 6]", "layer_range: [0, 5]", ["line 6: slices[0].sources[1].layer_range", "has 5"]),
        ("layer_range: [0, 6]", "layer_range: [3, 9]", ["line 3: slices[0].sources[0]", "at most 6"]),
        ("dtype: bfloat16", "dtypes: bfloat16", ["line 16", "dtypes"]),
        ("- value: 0.5", "- {filter: norm, value: 0.5}", ["line 2: slices[0]", "embed_tokens"]),
        ("slices:", "slices: [", ["line 2", "column"]),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(&recipe, good.replacen(from, to, 1)).unwrap();
        fails(&parent, text(&recipe), &MODELS, &words);
    }
    fails(&parent, "nowhere.yml", &MODELS, &["nowhere.yml"]);
}

#[test]
fn models_that_are_not_there() {
    let parent = folder("missing");
    fails(&parent, RECIPE, &MODELS[..2], &["./case", "--model ./case=DIR"]);
    let nowhere = ["--model", "./tale=www/models/tale", "--model", "./case=nowhere"];
    fails(&parent, RECIPE, &nowhere, &["./case", "nowhere", "not a directory"]);

    // A shard that the index lists.
    let case = folder("incomplete");
    copy_model("case", &case);
    fs::remove_file(case.join("model-00002-of-00003.safetensors")).unwrap();
    let model = format!("./case={}", text(&case));
    let models = ["--model", "./tale=www/models/tale", "--model", &model];
    fails(&parent, RECIPE, &models, &["./case", "model-00002-of-00003.safetensors", "not found"]);
    // One that was cut short.
    let shard = case.join("model-00002-of-00003.safetensors");
    let whole = Path::new(env!("CARGO_MANIFEST_DIR")).join("www/models/case");
    let bytes = fs::read(whole.join("model-00002-of-00003.safetensors")).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 100]).unwrap();
    fails(&parent, RECIPE, &models, &["./case", "model-00002-of-00003.safetensors", "download it again"]);
}

/// Offset in its file of the last byte of a tensor.
fn end_of(model: &Path, tensor: &str) -> (String, u64) {
    let manifest = manifest(model);
    let (shard, info) = manifest.get(tensor).unwrap();
    (shard.file.clone(), shard.header.data_start + info.end)
}

#[test]
fn a_nan_in_the_middle_of_a_parent() {
    let parent = folder("nan");
    let case = folder("nan-parent");
    copy_model("case", &case);
    let tensor = "model.layers.3.mlp.up_proj.weight";
    let (file, end) = end_of(&case, tensor);
    let mut bytes = fs::read(case.join(&file)).unwrap();
    bytes[end as usize - 2..end as usize].copy_from_slice(&[0xc0, 0x7f]);
    fs::write(case.join(&file), bytes).unwrap();
    let model = format!("./case={}", text(&case));
    let models = ["--model", "./tale=www/models/tale", "--model", &model];
    for more in [&[][..], &["--shard-size", "1000000"], &["--f8"]] {
        // The last of 512 * 192 elements.
        fails(&parent, RECIPE, &[&models[..], more].concat(), &[tensor, &file, "element 98303"]);
    }
}

/// Runs the merge below a shell that sets something up first; its stderr.
fn below_shell(setup: &str, out: &Path, models: &[&str]) -> (Option<i32>, String) {
    let arguments = arguments(RECIPE, out, models);
    let mut command = Command::new("sh");
    let script = format!("{setup} && exec \"$0\" \"$@\"");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["-c", &script, env!("CARGO_BIN_EXE_bise")]);
    let output = command.args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_file_that_may_not_grow() {
    let parent = folder("limit");
    // Blocks of 512 bytes: 1 MiB. Ignored, the signal becomes an error of the write.
    let (status, message) = below_shell("trap '' XFSZ; ulimit -f 2048", &parent.join("out"), &MODELS);
    assert_eq!(status, Some(1), "{message}");
    assert!(message.contains("error: writing model.safetensors"), "{message}");
    assert_eq!(names(&parent), [""; 0], "{message}");
}

/// Needs the right to mount; BISE_NO_MOUNT=1 does without.
#[test]
fn a_disk_that_is_full() {
    if std::env::var("BISE_NO_MOUNT").as_deref() == Ok("1") {
        println!("BISE_NO_MOUNT=1: a full disk is not tested");
        return;
    }
    let parent = folder("disk");
    let mount = format!("mount -t tmpfs -o size=2m bise '{}'", text(&parent));
    // In a namespace of its own, so that the mount ends with the process; it is looked at from inside.
    let script = format!("{mount} && {{ \"$0\" \"$@\"; echo \"status $?\"; ls -A '{}'; }}", text(&parent));
    let out = parent.join("out");
    let arguments = arguments(RECIPE, &out, &MODELS);
    let mut command = Command::new("unshare");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["--map-root-user", "--mount", "sh", "-c", &script]);
    let output = command.arg(env!("CARGO_BIN_EXE_bise")).args(arguments).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    let inside = String::from_utf8(output.stdout).unwrap();
    if inside.is_empty() && message.starts_with("unshare: ") {
        // Not everybody may have a namespace of their own; the test of a file's largest size is as good
        // a writer's failure.
        println!("a full disk is not tested, for there is no right to mount one: {message}");
        return;
    }
    assert_eq!(inside, "status 1\n", "{message}");
    assert!(message.contains("error: writing model.safetensors: no space left"), "{message}");
}

/// A checkpoint of one wide layer, its weights a hole in the file: 1 GB that takes no space.
fn sparse_model(directory: &Path) {
    use bise::checkpoint::writer::{Plan, TensorSpec};
    let config = serde_json::json!({
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 1,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "tie_word_embeddings": false
    });
    let shapes = [
        ("model.embed_tokens", vec![32000, 4096]),
        ("model.layers.0.input_layernorm", vec![4096]),
        ("model.layers.0.self_attn.q_proj", vec![4096, 4096]),
        ("model.layers.0.self_attn.k_proj", vec![1024, 4096]),
        ("model.layers.0.self_attn.v_proj", vec![1024, 4096]),
        ("model.layers.0.self_attn.o_proj", vec![4096, 4096]),
        ("model.layers.0.post_attention_layernorm", vec![4096]),
        ("model.layers.0.mlp.gate_proj", vec![14336, 4096]),
        ("model.layers.0.mlp.up_proj", vec![14336, 4096]),
        ("model.layers.0.mlp.down_proj", vec![4096, 14336]),
        ("model.norm", vec![4096]),
        ("lm_head", vec![32000, 4096]),
    ];
    let spec = |(name, shape): (&str, Vec<u64>)| TensorSpec {
        name: format!("{name}.weight"),
        dtype: bise::dtype::Dtype::Bf16,
        shape,
    };
    let plan = Plan::new(shapes.into_iter().map(spec).collect(), u64::MAX).unwrap();
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("config.json"), config.to_string()).unwrap();
    let file = directory.join(&plan.shards[0].file);
    fs::write(&file, &plan.shards[0].head).unwrap();
    File::options().write(true).open(file).unwrap().set_len(plan.shards[0].header.file_bytes()).unwrap();
}

#[test]
fn an_interrupt() {
    let parent = folder("interrupt");
    let models = folder("interrupt-models");
    for name in ["a", "b"] {
        sparse_model(&models.join(name));
    }
    let recipe = models.join("recipe.yml");
    let yaml = "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n";
    fs::write(&recipe, yaml).unwrap();
    let out = parent.join("out");
    let mut command = Command::new(env!("CARGO_BIN_EXE_bise"));
    command.args(arguments(text(&recipe), &out, &["--shard-size", "1000000"])).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();

    // Until it is in the middle of the first file.
    let began = Instant::now();
    let half_way = || {
        let partial = names(&parent).pop()?;
        let file = names(&parent.join(partial)).pop()?;
        file.ends_with(".partial").then_some(())
    };
    while half_way().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was begun: {:?}", names(&parent));
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be interrupted");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!out.exists(), "a merge under way has no final name yet");
    let interrupted = Instant::now();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.signal(), None, "it ended without cleaning up: {message}");
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("error: aborted"), "{message}");
    assert!(interrupted.elapsed() < Duration::from_secs(10), "{:?}", interrupted.elapsed());
    assert_eq!(names(&parent), [""; 0]);
}
