//! What is kept and when it is used.

use bise::checkpoint::storage::DiskFile;
use bise::engine::types::CacheState;
use bise::model::Precision;

use crate::disk::Disk;
use crate::support::{
    Options, Server, assert_state, load, load_kept, sha256_of, truth, weight_files, with_files,
};

#[test]
fn a_full_cache_asks_for_nothing() {
    for precision in [Precision::F8, Precision::Checkpoint] {
        let options = Options { precision, ..Options::default() };
        let (disk, truth) = (Disk::default(), truth(&options));
        let server = Server::new(&disk);
        let first = load_kept(&server, &disk, &options).unwrap();
        assert_state(&first, CacheState::Stored);
        assert!(first.weights == truth);
        let asked = server.requests.get();
        assert!(asked > 0);
        // Not even a server is needed.
        server.is_down.set(true);
        let second = load_kept(&server, &disk, &options).unwrap();
        assert_state(&second, CacheState::Loaded);
        assert_eq!(server.requests.get(), asked);
        assert!(second.weights == truth);
        for file in weight_files(&server.model) {
            assert_eq!(first.hashes[&file], sha256_of(&server.model, &file), "{file}");
        }
        assert_eq!(first.hashes, second.hashes);
    }
}

/// Negative control: weights of another model are not the same.
#[test]
fn other_weights_are_told_apart() {
    let (f8, wide) = (Options::default(), Options { precision: Precision::Checkpoint, ..Options::default() });
    assert!(truth(&f8) != truth(&wide));
    assert!(truth(&f8) == truth(&f8));
}

#[test]
fn a_full_cache_lies_on_a_real_disk_too() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("kept");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let options = Options::default();
    let open = || {
        let file = |name: &str| Box::new(DiskFile::open(folder.join(name)).unwrap());
        with_files(file("pack"), file("journal"), &options)
    };
    let server = Server::new(&Disk::default());
    assert_state(&load(&server, Some(open()), &options).unwrap(), CacheState::Stored);
    server.is_down.set(true);
    let again = load(&server, Some(open()), &options).unwrap();
    assert_state(&again, CacheState::Loaded);
    assert!(again.weights == truth(&options));
}

#[test]
fn what_is_out_of_date_is_replaced() {
    let (disk, options) = (Disk::default(), Options::default());
    let server = Server::new(&disk);
    load_kept(&server, &disk, &options).unwrap();
    let sent = server.sent.get();
    let stale = Options { fresh: false, ..options.clone() };
    assert_state(&load_kept(&server, &disk, &stale).unwrap(), CacheState::Stored);
    assert_eq!(server.sent.get(), 2 * sent);
    assert_state(&load_kept(&server, &disk, &options).unwrap(), CacheState::Loaded);
    assert_eq!(server.sent.get(), 2 * sent);
}

/// A file that is exchanged while it is loaded must not end up as half of each.
#[test]
fn a_file_that_changes_meanwhile_is_noticed() {
    let (disk, options) = (Disk::default(), Options::default());
    let server = Server::new(&disk);
    disk.cut_at(crate::disk::Cut::Bytes(5 << 20));
    assert!(load_kept(&server, &disk, &options).is_err());
    let disk = disk.after_cut(&mut crate::common::Random::new(1));
    let server = Server { disk: disk.clone(), ..server };
    *server.validator.borrow_mut() = "\"2\"".to_owned();
    let error = load_kept(&server, &disk, &options).err().unwrap();
    assert!(error.to_string().contains("replaced on the server"), "{error}");
    let again = load_kept(&server, &disk, &options).unwrap();
    assert_state(&again, CacheState::Stored);
    assert!(again.weights == truth(&options));
}

#[test]
fn weights_of_another_plan_are_not_used() {
    let (disk, options) = (Disk::default(), Options::default());
    let server = Server::new(&disk);
    load_kept(&server, &disk, &options).unwrap();
    let wide = Options { precision: Precision::Checkpoint, ..options };
    let other = load_kept(&server, &disk, &wide).unwrap();
    assert_state(&other, CacheState::Off);
    assert!(other.cache.note.clone().unwrap().contains("another version"));
    assert!(other.weights == truth(&wide));
    assert_state(&load_kept(&server, &disk, &wide).unwrap(), CacheState::Stored);
}

/// A model that does not fit is loaded all the same, and nothing half stays behind.
#[test]
fn too_little_space_is_no_failure() {
    let options = Options::default();
    let truth = truth(&options);
    for (free, room, said) in
        [(Some(1 << 20), None, "are left"), (None, Some(3 << 20), "disk is full"), (None, Some(10), "full")]
    {
        let disk = Disk::default();
        if let Some(room) = room {
            disk.limit(room);
        }
        let options = Options { free_bytes: free, ..options.clone() };
        let loaded = load_kept(&Server::new(&disk), &disk, &options).unwrap();
        assert_state(&loaded, CacheState::Off);
        let note = loaded.cache.note.clone().unwrap();
        assert!(note.contains("too little space") && note.contains(said), "{note}");
        assert!(loaded.weights == truth);
        assert!(disk.content("pack").is_empty() && disk.content("journal").is_empty());
    }
    // As much as it takes is enough.
    let disk = Disk::default();
    let options = Options { free_bytes: Some(20 << 20), ..options };
    assert_state(&load_kept(&Server::new(&disk), &disk, &options).unwrap(), CacheState::Stored);
}
