//! A load that is interrupted anywhere goes on, downloads little again, and gives the same weights.

use bise::checkpoint::journal::Journal;
use bise::engine::types::CacheState;

use crate::common::Random;
use crate::common::recorder::Recorder;
use crate::disk::{Cut, Disk};
use crate::support::{Loaded, Options, POINT_BYTES, Server, load_kept, truth};

/// Loads until it succeeds, with the power cut once at each of `cuts`; returns the last load, and how
/// many bytes were downloaded more than once.
fn interrupted(seed: u64, cuts: &[Cut], once: u64, options: &Options) -> (Loaded, u64, Disk) {
    let mut random = Random::new(seed);
    let mut disk = Disk::default();
    let first = Server::new(&disk);
    for &cut in cuts {
        disk.cut_at(cut);
        let server = Server { disk: disk.clone(), ..first.clone() };
        let loaded = load_kept(&server, &disk, options);
        // What an earlier load kept need not be written again: some cuts come too late. And once its
        // last byte has come, a model needs no disk.
        assert!(loaded.is_err() || !disk.is_cut() || first.sent.get() >= once, "seed {seed}, {cut:?}");
        disk = disk.after_cut(&mut random);
    }
    let server = Server { disk: disk.clone(), ..first.clone() };
    let loaded = load_kept(&server, &disk, options).unwrap();
    let again = first.sent.get().saturating_sub(once);
    (loaded, again, disk)
}

/// What a load without interruption sends, writes and flushes.
fn undisturbed(options: &Options) -> (u64, u64, u64) {
    let disk = Disk::default();
    let server = Server::new(&disk);
    load_kept(&server, &disk, options).unwrap();
    let (written, flushes) = disk.work();
    (server.sent.get(), written, flushes)
}

fn check(seed: u64, cuts: &[Cut], truth: &Recorder, once: u64, options: &Options) {
    let (loaded, again, disk) = interrupted(seed, cuts, once, options);
    assert!(loaded.weights == *truth, "seed {seed}, {cuts:?}: damaged");
    // What lies between two points, twice: as 64 MiB are to the 32 of a real load.
    let limit = cuts.len() as u64 * 2 * POINT_BYTES;
    assert!(again <= limit, "seed {seed}, {cuts:?}: {again} bytes downloaded again");
    // What is kept in the end is whole.
    let server = Server::new(&disk);
    server.is_down.set(true);
    let kept = load_kept(&server, &disk, options).unwrap();
    assert!(kept.cache.state == CacheState::Loaded && kept.weights == *truth, "seed {seed}, {cuts:?}");
}

#[test]
fn at_every_flush() {
    let options = Options::default();
    let (truth, (once, _, flushes)) = (truth(&options), undisturbed(&options));
    assert!(flushes > 10, "{flushes}");
    for flush in 0..flushes - 1 {
        check(flush, &[Cut::BeforeFlush(flush)], &truth, once, &options);
        check(flush, &[Cut::AfterFlush(flush)], &truth, once, &options);
    }
}

#[test]
fn at_random_bytes_in_up_to_three_loads() {
    let options = Options::default();
    let (truth, (once, written, _)) = (truth(&options), undisturbed(&options));
    let mut torn = 0;
    for seed in 0..32 {
        let mut random = Random::new(seed);
        let cuts: Vec<Cut> = (0..=random.below(3)).map(|_| Cut::Bytes(random.below(written))).collect();
        torn += cuts.len();
        check(seed, &cuts, &truth, once, &options);
    }
    assert!(torn > 40, "{torn}");
}

/// The bound is one: without points in between, more is downloaded again.
#[test]
fn without_points_more_is_downloaded_again() {
    let options = Options { point_bytes: u64::MAX, ..Options::default() };
    let (once, written, _) = undisturbed(&options);
    let (_, again, _) = interrupted(1, &[Cut::Bytes(written / 3 - 1000)], once, &options);
    assert!(again > 2 * POINT_BYTES, "{again}");
}

/// Points are where they are promised: no further apart than a point's bytes and a chunk.
#[test]
fn points_are_close() {
    let (disk, options) = (Disk::default(), Options::default());
    load_kept(&Server::new(&disk), &disk, &options).unwrap();
    let journal = Journal::open(disk.open("journal")).unwrap();
    let done: Vec<u64> = journal.points().iter().map(|point| point.done_bytes).collect();
    assert!(done.len() > 5 && journal.points().last().unwrap().complete, "{done:?}");
    let inside = journal.points().iter().filter(|point| point.offset > 0).count();
    assert!(inside > 1, "{inside} points inside tensors");
    assert!(
        done.windows(2).all(|pair| pair[1] - pair[0] <= POINT_BYTES + (1 << 20) + (256 << 10)),
        "{done:?}"
    );
}
