//! A device that is lost while it merges: the CPU ends what it began, with the same bits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bise::checkpoint::{ByteSource, ByteStream};
use bise::gpu::LimitChoice;
use bise::merge::{Arithmetic, Merge, MergeOptions, Parent, Recipe};
use pollster::block_on;

use crate::common::synthetic::SyntheticSource;
use crate::support::gpu;

/// Matrices of the MLP are longer than what is read back at once.
const CONFIG: &str = r#"{
    "model_type": "mistral", "hidden_size": 320, "intermediate_size": 7000, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 80, "vocab_size": 400
}"#;

/// Weights follow from their names: other layers are other weights.
const RECIPE: &str = "slices:\n\
                      - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [1, 2]}]\n\
                      merge_method: slerp\nbase_model: a\nparameters: {t: 0.3}\ndtype: bfloat16\n";

const WEIGHTS: &str = "model.safetensors";

fn plan(arithmetic: Arithmetic, cancelled: Rc<dyn Fn() -> bool>) -> Merge<SyntheticSource> {
    plan_from(&SyntheticSource::new(CONFIG, 1), arithmetic, cancelled)
}

fn plan_from(
    source: &SyntheticSource,
    arithmetic: Arithmetic,
    cancelled: Rc<dyn Fn() -> bool>,
) -> Merge<SyntheticSource> {
    block_on(async {
        let recipe = Recipe::parse(RECIPE).unwrap();
        let mut parents = Vec::new();
        for model in recipe.models() {
            parents.push(Parent::open(model, source.clone()).await.unwrap());
        }
        let options = MergeOptions { arithmetic, ..MergeOptions::default() };
        Merge::new(recipe, RECIPE, parents, options, cancelled, Box::new(|_| ())).await.unwrap()
    })
}

fn on_gpu() -> Arithmetic {
    Arithmetic::Gpu(gpu(LimitChoice::Adapter))
}

/// All weights, and the length of every piece in which they came; `between` is called after each.
fn read(merge: &Merge<SyntheticSource>, between: &mut dyn FnMut(usize)) -> (Vec<u8>, Vec<usize>) {
    let mut stream = block_on(merge.open(WEIGHTS, None)).unwrap().stream;
    let (mut bytes, mut pieces) = (Vec::new(), Vec::new());
    while let Some(piece) = block_on(stream.next()).unwrap() {
        bytes.extend(&piece);
        pieces.push(piece.len());
        between(pieces.len());
    }
    (bytes, pieces)
}

/// Where every tensor was computed.
fn paths(merge: &Merge<SyntheticSource>) -> BTreeMap<String, &'static str> {
    merge.report().tensors.iter().map(|report| (report.tensor.clone(), report.path)).collect()
}

fn never() -> Rc<dyn Fn() -> bool> {
    Rc::new(|| false)
}

fn lose(merge: &Merge<SyntheticSource>) {
    merge.on_device(|gpu| gpu.device().destroy()).expect("a device to lose");
}

/// What must hold however the device was lost.
fn check(merge: &Merge<SyntheticSource>, bytes: &[u8], expected: &[u8], what: &str) {
    assert!(bytes == expected, "{what}: other bytes than on the CPU");
    let warnings = merge.warnings();
    // Once, since no later tensor tries again.
    assert_eq!(warnings.len(), 1, "{what}: {warnings:?}");
    assert!(warnings[0].contains("it and all that follow were merged on the CPU"), "{what}: {warnings:?}");
    assert!(merge.on_device(|_| ()).is_none(), "{what}");
    assert_eq!(merge.report().tensors.len(), 12, "{what}");
}

#[test]
fn a_device_that_is_lost_between_two_pieces() {
    let (expected, _) = read(&plan(Arithmetic::Cpu, never()), &mut |_| ());
    let source = SyntheticSource::new(CONFIG, 1);
    let merge = plan_from(&source, on_gpu(), never());
    let (bytes, pieces) = read(&merge, &mut |_| ());
    assert!(bytes == expected, "GPU and CPU");
    // Every tensor of both parents came once; the rest is two headers and what came along with them.
    let (served, needed) = (source.served_bytes.get(), 2 * merge.total_bytes());
    assert!(served >= needed && served < needed + (512 << 10), "{served} bytes for {needed}");
    assert!(merge.on_device(|_| ()).is_some() && merge.warnings().is_empty());
    let all = paths(&merge);
    // The smallest are the CPU's anyway.
    assert_eq!(all.values().filter(|path| **path == "gpu").count(), 7, "{all:?}");

    // The first piece of a tensor of several, the head before all tensors, and the end of a tensor.
    let first = pieces.iter().position(|bytes| *bytes == 4 << 20).unwrap() + 1;
    for lost_after in [1, first, first + 1, pieces.len() - 4] {
        let merge = plan(on_gpu(), never());
        let (bytes, _) = read(&merge, &mut |pieces| {
            if pieces == lost_after {
                lose(&merge);
            }
        });
        check(&merge, &bytes, &expected, &format!("lost after piece {lost_after}"));
        let paths = paths(&merge);
        assert_ne!(paths, all, "the report says who did it");
        let warning = &merge.warnings()[0];
        let named = warning.split(':').next().unwrap();
        assert_eq!(paths[named], "cpu", "{warning}");
    }
}

/// While parents are read, sums are taken, results come back: every time that the merge asks whether it is
/// to stop, the device is lost.
#[test]
fn a_device_that_is_lost_at_any_other_point() {
    let (expected, _) = read(&plan(Arithmetic::Cpu, never()), &mut |_| ());
    let counting = |at: usize| {
        let (asked, device) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None::<wgpu::Device>)));
        let (asks, lost) = (asked.clone(), device.clone());
        let merge = plan(
            on_gpu(),
            Rc::new(move || {
                asks.set(asks.get() + 1);
                if asks.get() == at {
                    lost.borrow_mut().take().expect("a device to lose").destroy();
                }
                false
            }),
        );
        device.replace(merge.on_device(|gpu| gpu.device().clone()));
        asked.set(0);
        let (bytes, _) = read(&merge, &mut |_| ());
        (merge, bytes, asked.get())
    };
    let (_, bytes, times) = counting(usize::MAX);
    assert!(bytes == expected && times > 100, "{times}");
    for at in (1..times * 3 / 4).step_by(times / 7) {
        let (merge, bytes, _) = counting(at);
        check(&merge, &bytes, &expected, &format!("lost when asked for the {at}th time"));
    }
}
