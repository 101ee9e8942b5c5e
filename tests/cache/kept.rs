//! What is kept and when it is used.

use std::cell::RefCell;
use std::rc::Rc;

use bise::checkpoint::storage::DiskFile;
use bise::engine::types::CacheState;
use bise::model::Precision;

use crate::common::Random;
use crate::disk::{Cut, Disk};
use crate::support::{
    Options, Server, assert_state, files, load, load_kept, sha256_of, truth, weight_files, with_files,
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

/// What is out of date is better than nothing: it stays until the source has sent something, and what
/// describes it goes before it does.
#[test]
fn what_is_out_of_date_stays_until_something_comes() {
    let (disk, options) = (Disk::default(), Options::default());
    let server = Server::new(&disk);
    load_kept(&server, &disk, &options).unwrap();
    let before = (disk.content("pack"), disk.content("journal"));
    let stale = Options { fresh: false, ..options.clone() };
    // At each time of asking, what lay in both files.
    let asked = Rc::new(RefCell::new(Vec::new()));
    let load_stale = || {
        let (seen, disk) = (asked.clone(), disk.clone());
        let mut files = files(&disk, &stale);
        files.on_replace = Box::new(move || {
            let (seen, disk) = (seen.clone(), disk.clone());
            Box::pin(async move { seen.borrow_mut().push((disk.content("pack"), disk.content("journal"))) })
        });
        load(&server, Some(files), &stale)
    };
    server.is_down.set(true);
    assert!(load_stale().is_err());
    assert!(asked.borrow().is_empty());
    let kept = load_kept(&server, &disk, &options).unwrap();
    assert_state(&kept, CacheState::Loaded);
    assert!(kept.weights == truth(&options));
    server.is_down.set(false);
    assert_state(&load_stale().unwrap(), CacheState::Stored);
    assert_eq!(asked.borrow().len(), 1);
    assert!(asked.borrow()[0] == before);
    // Of the new one, what is not there is known as well as what is.
    server.is_down.set(true);
    assert_state(&load_kept(&server, &disk, &options).unwrap(), CacheState::Loaded);
}

/// What goes makes room for what comes.
#[test]
fn the_room_of_what_is_replaced_counts() {
    let options = Options { free_bytes: Some(6 << 20), fresh: false, ..Options::default() };
    let disk = Disk::default();
    let server = Server::new(&disk);
    // Negative control: where nothing is replaced, that is too little.
    assert_state(&load_kept(&server, &disk, &options).unwrap(), CacheState::Off);
    let plenty = Options { free_bytes: None, ..options.clone() };
    assert_state(&load_kept(&server, &disk, &plenty).unwrap(), CacheState::Stored);
    assert!(disk.content("pack").len() > 6 << 20);
    assert_state(&load_kept(&server, &disk, &options).unwrap(), CacheState::Stored);
}

/// Kept weights that no later load could tell from others are not kept at all.
#[test]
fn what_hides_its_version_is_kept_only_by_its_hashes() {
    let (disk, options) = (Disk::default(), Options::default());
    let server = Server::new(&disk);
    server.validator.borrow_mut().clear();
    let mut partly = options.clone();
    let names = weight_files(&server.model);
    partly.trust.manifest.insert(names[0].clone(), sha256_of(&server.model, &names[0]));
    for options in [&options, &partly] {
        let loaded = load_kept(&server, &disk, options).unwrap();
        assert_state(&loaded, CacheState::Off);
        let note = loaded.cache.note.clone().unwrap();
        assert!(note.contains("not kept") && note.contains("integrity"), "{note}");
        assert!(loaded.weights == truth(options));
        assert!(disk.content("pack").is_empty() && disk.content("journal").is_empty());
    }
    let mut named = options.clone();
    for file in &names {
        named.trust.manifest.insert(file.clone(), sha256_of(&server.model, file));
    }
    for options in [named, Options { identified: true, ..options }] {
        let disk = Disk::default();
        let server = Server { disk: disk.clone(), ..server.clone() };
        assert_state(&load_kept(&server, &disk, &options).unwrap(), CacheState::Stored);
        let sent = server.sent.get();
        assert_state(&load_kept(&server, &disk, &options).unwrap(), CacheState::Loaded);
        assert_eq!(server.sent.get(), sent);
    }
}

/// Where the hash is known, it alone tells versions apart: servers of one network need not agree on an
/// ETag. A file that did change is found out by its hash.
#[test]
fn an_etag_that_changes_is_no_other_file_where_the_hash_is_known() {
    let options = Options::default();
    for flipped in [false, true] {
        let disk = Disk::default();
        let server = Server::new(&disk);
        let mut known = options.clone();
        for file in weight_files(&server.model) {
            known.trust.hub.insert(file.clone(), sha256_of(&server.model, &file));
        }
        disk.cut_at(Cut::Bytes(5 << 20));
        assert!(load_kept(&server, &disk, &known).is_err());
        let disk = disk.after_cut(&mut Random::new(1));
        let server = Server { disk: disk.clone(), ..server };
        *server.validator.borrow_mut() = "\"2\"".to_owned();
        let last = weight_files(&server.model).pop().unwrap();
        if flipped {
            *server.flip.borrow_mut() = Some((last.clone(), 8 << 20));
        }
        match load_kept(&server, &disk, &known) {
            Ok(loaded) => {
                assert!(!flipped);
                assert_state(&loaded, CacheState::Resumed);
                assert!(loaded.weights == truth(&options));
            }
            Err(error) => {
                assert!(flipped, "{error}");
                assert!(
                    error.to_string().contains(&last) && error.to_string().contains("SHA-256"),
                    "{error}"
                );
            }
        }
    }
}

/// A file that is exchanged while it is loaded must not end up as half of each.
#[test]
fn a_file_that_changes_meanwhile_is_noticed() {
    let (disk, options) = (Disk::default(), Options::default());
    let server = Server::new(&disk);
    disk.cut_at(Cut::Bytes(5 << 20));
    assert!(load_kept(&server, &disk, &options).is_err());
    let disk = disk.after_cut(&mut Random::new(1));
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
    assert_state(&other, CacheState::Stored);
    assert!(other.weights == truth(&wide));
    assert_state(&load_kept(&server, &disk, &wide).unwrap(), CacheState::Loaded);
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
