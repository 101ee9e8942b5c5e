//! The embedded merge on the GPU and on the CPU: one result.

use std::collections::BTreeMap;
use std::rc::Rc;

use bise::checkpoint::source::{FileSource, MemorySource};
use bise::checkpoint::{Manifest, sink::MemorySink};
use bise::gpu::LimitChoice;
use bise::merge::{Arithmetic, Merge, MergeOptions, MergeReport, Parent, Recipe};
use pollster::block_on;

use crate::support::{from_top, gpu};

/// Every tensor's values, and the report.
fn merge(text: &str, arithmetic: Arithmetic) -> (BTreeMap<String, Vec<f32>>, MergeReport) {
    block_on(async {
        let recipe = Recipe::parse(text).unwrap();
        let mut parents = Vec::new();
        for model in recipe.models() {
            let source = FileSource::new(from_top("www/models").join(&model.path));
            parents.push(Parent::open(model, source).await.unwrap());
        }
        let options = MergeOptions { arithmetic, ..MergeOptions::default() };
        let (cancelled, on_tensor) = (Rc::new(|| false), Box::new(|_: &_| ()));
        let merge: Merge<FileSource> =
            Merge::new(recipe, text, parents, options, cancelled, on_tensor).await.unwrap();
        let mut sink = MemorySink::default();
        merge.write(&mut sink, &mut |_| ()).await.unwrap();
        let source = MemorySource::new(sink.files);
        let manifest = Manifest::read(&source).await.unwrap();
        let mut tensors = BTreeMap::new();
        for (_, info) in manifest.tensors() {
            let values = manifest.read_f32(&source, &info.name, u64::MAX, &|| false).await.unwrap();
            tensors.insert(info.name.clone(), values);
        }
        (tensors, merge.report())
    })
}

/// The bar of SLERP's definition: nearly all bits, the rest within a rounding.
fn compare(text: &str) {
    let (on_cpu, cpu) = merge(text, Arithmetic::Cpu);
    let (on_gpu, gpu) = merge(text, Arithmetic::Gpu(gpu(LimitChoice::Adapter)));
    assert_eq!(gpu.warnings, cpu.warnings);
    let (mut elements, mut different, mut on_device) = (0, 0, 0);
    for (report, other) in gpu.tensors.iter().zip(&cpu.tensors) {
        let (slerp, expected) = (report.slerp.as_ref().unwrap(), other.slerp.as_ref().unwrap());
        // Small tensors are done before a result could be read back.
        let large = report.shape.iter().product::<u64>() >= 1 << 16;
        on_device += usize::from(large);
        let path = if large { "gpu" } else { "cpu" };
        assert_eq!((report.path, other.path), (path, "cpu"), "{}", report.tensor);
        assert!(
            (slerp.dot - expected.dot).abs() < 1e-12,
            "{}: {} and {}",
            report.tensor,
            slerp.dot,
            expected.dot
        );
        assert_eq!(slerp.branch, expected.branch, "{}", report.tensor);
    }
    for (name, values) in &on_cpu {
        for (a, b) in values.iter().zip(&on_gpu[name]) {
            elements += 1;
            different += usize::from(a.to_bits() != b.to_bits());
            assert!((a - b).abs() <= 2.0_f32.powi(-7) * a.abs().max(b.abs()), "{name}: {a} and {b}");
        }
    }
    println!("{different} of {elements} elements differ; {on_device} tensors merged on the device");
    assert!(on_device >= 10, "{on_device}");
    assert!(different * 1000 <= elements, "{different} of {elements} elements differ");
}

fn recipe() -> String {
    std::fs::read_to_string(from_top("tests/fixtures/recipes/tale-x-case.yml")).unwrap()
}

#[test]
fn both_paths_merge_alike() {
    compare(&recipe());
}

#[test]
fn both_paths_merge_a_chain_alike() {
    let first = recipe().replace("merge_method", "name: first\nmerge_method");
    let second = "models: [{model: first}, {model: ./case}]\nbase_model: first\nmerge_method: slerp\n\
                  parameters: {t: 0.25}\ndtype: bfloat16\nout_dtype: float32\n";
    compare(&format!("{first}---\n{second}"));
}

#[test]
fn what_the_gpu_does_not_merge_goes_to_the_cpu() {
    let text = recipe().replace("dtype: bfloat16", "dtype: float64\nout_dtype: bfloat16");
    let (tensors, report) = merge(&text, Arithmetic::Gpu(gpu(LimitChoice::Adapter)));
    assert!(report.tensors.iter().all(|tensor| tensor.path == "cpu"));
    let (expected, _) = merge(&text, Arithmetic::Cpu);
    assert!(tensors == expected);
}
