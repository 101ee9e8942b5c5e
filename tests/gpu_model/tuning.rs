//! Kernels that are chosen by timing them: what is timed, remembered, and the same whatever is chosen.

use bise::checkpoint::source::FileSource;
use bise::engine::{
    BackendChoice, Engine, Info, LoadOptions, Request, TuningFile, TuningReport, TuningState, WeightMode,
};
use bise::kernels::{Choice, Sizes, Threads, Tile};
use pollster::block_on;

use crate::alike::request;
use crate::common::limits;
use crate::support::{check_golden, from_top, gpu, load_with, run, webgpu};

/// Tuning is a matter of speed alone, and of GPUs unless it is asked for. What was timed is remembered.
#[test]
fn a_tuned_engine_says_the_same() {
    let weights = WeightMode::Checkpoint;
    let options = |autotune| LoadOptions {
        autotune,
        weights,
        gpu: gpu(limits()),
        // However slow this machine is just now.
        tuning_ms: Some(600_000),
        ..LoadOptions::default()
    };
    let mut tuned = load_with("www/models/tale", &options(Some(true)));
    let Info { adapter, tuning, .. } = tuned.info();
    assert_eq!(tuning.state, TuningState::Timed, "{tuning:?}");
    assert!(
        tuning.key.contains(env!("CARGO_PKG_VERSION")) && tuning.key.contains(&adapter.name),
        "{tuning:?}"
    );
    let sizes = if adapter.software { Sizes::Cpu } else { Sizes::Gpu };
    let measured: usize = tuning.note.unwrap().split(' ').next().unwrap().parse().unwrap();
    let candidates = Threads::candidates(sizes).len() + Tile::candidates(sizes).len();
    assert!(measured > candidates, "{measured} of {candidates} and some pairs");
    let choice = Choice::from_numbers(tuning.choice.clone().try_into().unwrap(), sizes).unwrap();
    assert_eq!(adapter.threads, Some([choice.threads.workgroup, choice.threads.lanes]));
    check_golden(&mut tuned, "tale");

    // Another choice under the same key is taken as it is, and not timed again.
    let other = Choice {
        threads: Threads::candidates(sizes)
            .iter()
            .copied()
            .find(|threads| *threads != choice.threads)
            .unwrap(),
        tile: Tile::candidates(sizes).iter().copied().find(|tile| *tile != choice.tile).unwrap(),
        fast: false,
        subgroups: false,
        short: 4,
    };
    let with =
        |tunings: serde_json::Value| LoadOptions { tunings: tunings.to_string(), ..options(Some(true)) };
    let mut remembered =
        load_with("www/models/tale", &with(serde_json::json!({ &tuning.key: other.numbers() })));
    let Info { adapter, tuning: report, .. } = remembered.info();
    assert_eq!((report.state, &report.choice), (TuningState::Remembered, &other.numbers().to_vec()));
    assert_eq!(
        (adapter.fp8_decoder.as_str(), adapter.threads.unwrap()[0]),
        ("safe", other.threads.workgroup)
    );
    assert_eq!(adapter.subgroup, 0);
    check_golden(&mut remembered, "tale");

    // Left the choice, a GPU is tuned.
    let untuned: &[Option<bool>] = if adapter.software { &[None, Some(false)] } else { &[Some(false)] };
    for autotune in untuned {
        let tunings = serde_json::json!({ &tuning.key: other.numbers() }).to_string();
        let info = load_with("www/models/tale", &LoadOptions { tunings, ..options(*autotune) }).info();
        assert_eq!(info.tuning.state, TuningState::Usual, "{:?}", info.tuning);
        let usual = Threads::candidates(sizes)[0];
        assert_eq!(info.adapter.threads, Some([usual.workgroup, usual.lanes]));
    }
}

/// Where time runs out nothing is chosen, and it is said.
#[test]
fn without_time_the_usual_kernels_stay() {
    let options = LoadOptions { autotune: Some(true), tuning_ms: Some(0), ..webgpu(limits()) };
    let tunings = serde_json::json!({ "another adapter": [64, 64, 8, 8, 8, 4, 8, 1, 1, 0] }).to_string();
    let Info { tuning, .. } =
        load_with("www/models/tale", &LoadOptions { tunings, ..options.clone() }).info();
    assert_eq!(tuning.state, TuningState::Usual);
    assert!(tuning.note.as_deref().unwrap().contains("time ran out"), "{tuning:?}");
    let tunings = serde_json::json!({ &tuning.key: tuning.choice, "another": [] }).to_string();
    let info = load_with("www/models/tale", &LoadOptions { tunings, ..options }).info();
    assert_eq!(info.tuning, TuningReport { state: TuningState::Remembered, note: None, ..tuning });
}

/// The end of a prompt is computed as decoding does where that is the faster way and rounding may show: what is
/// to be the same again builds on none of it.
#[test]
fn short_ends_of_prompts_are_decoded_where_rounding_may_show() {
    let options = LoadOptions { autotune: Some(true), tuning_ms: Some(0), ..webgpu(limits()) };
    let Info { tuning: TuningReport { key, choice, .. }, .. } = load_with("www/models/tale", &options).info();
    let engine = |short: u32| {
        let mut choice = choice.clone();
        *choice.last_mut().unwrap() = short;
        load_with(
            "www/models/tale",
            &LoadOptions { tunings: serde_json::json!({ &key: choice }).to_string(), ..options.clone() },
        )
    };
    // Without a seed, though there is nothing to draw from.
    let drawn = request(serde_json::json!({ "temperature": 1.0, "top_k": 1, "max_tokens": 8 }));
    let greedy = request(serde_json::json!({ "temperature": 0.0, "max_tokens": 8 }));
    for logprobs in [None, Some(0)] {
        let drawn = Request { logprobs, ..drawn.clone() };
        // The prompt has eight tokens.
        for (short, reused) in [(8, 0), (7, 7), (0, 7)] {
            let mut engine = engine(short);
            for _ in 0..2 {
                assert_eq!(run(&mut engine, &drawn).unwrap().text, "went to the door.\n\"W", "{short}");
            }
            let exact = run(&mut engine, &greedy).unwrap();
            assert_eq!(
                (exact.timings.cached_tokens, exact.text.as_str()),
                (reused, "went to the door.\n\"W")
            );
            // Now it is as a prompt computes it, and so are further ones.
            assert_eq!(run(&mut engine, &greedy).unwrap().timings.cached_tokens, 7);
        }
    }
}

/// What a load has timed is in a file of the user's, and a damaged one is as good as none.
#[test]
fn choices_are_remembered_in_a_file() {
    let folder = std::env::temp_dir().join(format!("bise-tuning-{}", std::process::id()));
    let path = folder.join("deep/tuning.json");
    let file = TuningFile::at(&path);
    assert_eq!(file.read(), "");
    let load = || {
        let options = LoadOptions { autotune: Some(true), tunings: file.read(), ..webgpu(limits()) };
        load_with("www/models/tale", &LoadOptions { tuning_ms: Some(600_000), ..options }).info().tuning
    };
    let timed = load();
    assert_eq!(timed.state, TuningState::Timed);
    file.note(&timed);
    std::fs::write(&path, b"{\"torn").unwrap();
    file.note(&timed);
    let remembered = load();
    assert_eq!((remembered.state, &remembered.choice), (TuningState::Remembered, &timed.choice));
    // Others' choices stay, up to a limit.
    file.note(&TuningReport { key: "another".into(), ..timed.clone() });
    file.note(&TuningReport { key: "usual".into(), state: TuningState::Usual, ..timed.clone() });
    let held = || serde_json::from_str::<serde_json::Value>(&file.read()).unwrap();
    assert_eq!(held(), serde_json::json!({ &timed.key: timed.choice, "another": timed.choice }));
    for at in 0..100 {
        file.note(&TuningReport { key: at.to_string(), ..timed.clone() });
    }
    let count = held().as_object().unwrap().len();
    assert!(count <= 64 && held().get("99").is_some(), "{count}");
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else lies there");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Where nothing would be timed it is said, and what asks for it refused.
#[test]
fn the_processor_is_not_tuned() {
    let source = FileSource::new(from_top("www/models/tale"));
    let options = LoadOptions { backend: BackendChoice::Cpu, autotune: Some(true), ..LoadOptions::default() };
    let error = block_on(Engine::load(&source, &options, &mut |_| (), &|| false)).err().unwrap();
    assert_eq!(error.code(), "bad-request");
    assert!(error.to_string().contains("autotune"), "{error}");
    let free = LoadOptions { backend: BackendChoice::Auto, lost: true, ..options };
    let Info { backend, tuning, .. } = load_with("www/models/tale", &free).info();
    assert_eq!((backend.as_str(), tuning.state), ("cpu", TuningState::Usual));
    assert!(tuning.note.unwrap().contains("processor"));
}
