//! Weights that are kept in another form than a load takes: replaced in that load, or taken.

use std::cell::RefCell;
use std::rc::Rc;

use bise::engine::types::CacheState;
use bise::engine::{
    BackendChoice, CachedSource, Engine, Inspection, Kept, LoadOptions, Trust, WeightMode, inspect_cached,
};
use bise::gpu::DeviceTier;
use bise::model::Precision;
use pollster::block_on;

use crate::common::Random;
use crate::disk::{Cut, Disk};
use crate::support::{Options, Server, assert_state, files, load, load_kept, truth};

fn as_precision(precision: Precision) -> Options {
    Options { precision, ..Options::default() }
}

/// One load replaces them, once something came; small files are not asked for again.
#[test]
fn weights_in_another_form_are_replaced_in_one_load() {
    let (wide, f8) = (as_precision(Precision::Checkpoint), as_precision(Precision::F8));
    let disk = Disk::default();
    let server = Server::new(&disk);
    assert_state(&load_kept(&server, &disk, &wide).unwrap(), CacheState::Stored);
    let once = server.sent.get();

    // While nothing comes, they stay, and what describes them does.
    let heard = Rc::new(RefCell::new(Vec::new()));
    let load_f8 = || {
        let mut files = files(&disk, &f8);
        let (replaced, started) = (heard.clone(), heard.clone());
        files.on_replace = Box::new(move || {
            replaced.borrow_mut().push(None);
            Box::pin(async {})
        });
        files.on_start = Box::new(move |_, _, form| started.borrow_mut().push(Some(form)));
        load(&server, Some(files), &f8)
    };
    server.is_down.set(true);
    assert!(load_f8().is_err());
    assert!(heard.borrow().is_empty());
    let stays = load_kept(&server, &disk, &wide).unwrap();
    assert_state(&stays, CacheState::Loaded);
    assert!(stays.weights == truth(&wide));

    server.is_down.set(false);
    let replaced = load_f8().unwrap();
    assert_state(&replaced, CacheState::Stored);
    assert!(replaced.weights == truth(&f8));
    assert_eq!(*heard.borrow(), [None, Some(WeightMode::F8)]);
    assert!(server.sent.get() <= 2 * once);
    server.is_down.set(true);
    let again = load_kept(&server, &disk, &f8).unwrap();
    assert_state(&again, CacheState::Loaded);
    assert!(again.weights == truth(&f8));
}

/// Power that is cut anywhere in between leaves nothing that another load takes for its own.
#[test]
fn power_may_go_while_they_are_replaced() {
    let (wide, f8) = (as_precision(Precision::Checkpoint), as_precision(Precision::F8));
    let truths = [truth(&wide), truth(&f8)];
    let cuts: [fn(u64) -> Cut; 2] = [Cut::BeforeFlush, Cut::AfterFlush];
    for (flush, cut) in (0..12).flat_map(|flush| cuts.map(|cut| (flush, cut))) {
        for (options, truth) in [&wide, &f8].into_iter().zip(&truths) {
            let disk = Disk::default();
            load_kept(&Server::new(&disk), &disk, &wide).unwrap();
            let cut = cut(disk.work().1 + flush);
            disk.cut_at(cut);
            assert!(load_kept(&Server::new(&disk), &disk, &f8).is_err(), "{cut:?}");
            let disk = disk.after_cut(&mut Random::new(flush));
            let next = load_kept(&Server::new(&disk), &disk, options).unwrap();
            assert!(next.weights == *truth, "{cut:?}");
            assert!(next.cache.state != CacheState::Off, "{cut:?}: {:?}", next.cache.note);
        }
    }
}

/// On the CPU, the form is that of what a GPU's visit kept, and an inspection knows it.
#[test]
fn an_inspection_foretells_the_form_that_a_load_takes() {
    let disk = Disk::default();
    let server = Server::new(&disk);
    let options = LoadOptions { backend: BackendChoice::Cpu, ..LoadOptions::default() };
    let open = || {
        let kept = Rc::new(Kept::new(Trust::default(), Some(files(&disk, &Options::default()))));
        (CachedSource::new(server.clone(), kept.clone()), kept)
    };
    let told = |options: &LoadOptions, tier: Option<&DeviceTier>| {
        let (source, kept) = open();
        let Inspection { weights, kept, total_bytes, .. } =
            block_on(inspect_cached(&source, &kept, options, tier)).unwrap();
        (weights, kept, total_bytes)
    };
    let taken = || {
        let (source, kept) = open();
        let info = block_on(Engine::load_cached(&source, &kept, None, &options, &mut |_| (), &|| false))
            .unwrap()
            .info();
        assert_eq!(info.memory.total, told(&options, None).2);
        (info.weights, info.cache.state)
    };
    let gpu = LoadOptions { backend: BackendChoice::Webgpu, ..LoadOptions::default() };
    let tier = DeviceTier::at_default_limits();

    assert_eq!(taken(), (WeightMode::I8, CacheState::Stored));
    assert!(told(&options, None).1);
    assert_eq!(taken(), (WeightMode::I8, CacheState::Loaded));
    // A GPU would have to fetch them.
    let (weights, kept, _) = told(&gpu, Some(&tier));
    assert_eq!((weights, kept), (WeightMode::F8, false));

    assert_state(&load_kept(&server, &disk, &Options::default()).unwrap(), CacheState::Stored);
    server.is_down.set(true);
    for (options, tier) in [(&gpu, Some(&tier)), (&options, None)] {
        let (weights, kept, _) = told(options, tier);
        assert_eq!((weights, kept), (WeightMode::F8, true));
    }
    assert_eq!(taken(), (WeightMode::F8, CacheState::Loaded));
    // What is asked for is not replaced by what is there.
    server.is_down.set(false);
    let (weights, kept, _) = told(&LoadOptions { weights: WeightMode::I8, ..options.clone() }, None);
    assert_eq!((weights, kept), (WeightMode::I8, false));
}

/// Whoever looks changes nothing, whatever is damaged: the next load finds out.
#[test]
fn an_inspection_writes_nothing() {
    let options = LoadOptions { backend: BackendChoice::Cpu, ..LoadOptions::default() };
    let mut were_fetched = 0;
    for seed in 0..24 {
        let disk = Disk::default();
        let server = Server::new(&disk);
        load_kept(&server, &disk, &Options::default()).unwrap();
        let mut random = Random::new(seed);
        // Small files come first.
        let (file, bytes) =
            [("pack", 20_000), ("journal", disk.content("journal").len() as u64)][seed as usize % 2];
        if seed > 1 {
            disk.flip(file, random.below(bytes * 8));
        }
        let (before, sent) = (["pack", "journal"].map(|file| disk.content(file)), server.sent.get());
        let kept = files(&disk, &Options::default()).looked_at();
        let kept = Rc::new(Kept::new(Trust::default(), Some(kept)));
        let source = CachedSource::new(server.clone(), kept.clone());
        let found = block_on(inspect_cached(&source, &kept, &options, None)).unwrap();
        // What is damaged is nothing that a load would take.
        assert!(found.weights == WeightMode::F8 || !found.kept, "seed {seed}");
        assert!(found.kept || seed > 1, "seed {seed}");
        were_fetched += u32::from(server.sent.get() > sent);
        drop((source, kept));
        assert!(before == ["pack", "journal"].map(|file| disk.content(file)), "seed {seed}");
    }
    assert!(were_fetched > 4, "{were_fetched} of them were damaged where an inspection reads");
}
