//! Bits that flip on the way or in the cache never reach the device unnoticed.

use bise::checkpoint::CheckpointError;
use bise::checkpoint::hash::STATE_BYTES;
use bise::checkpoint::journal::{Journal, Point};
use bise::engine::cached::Pin;
use bise::engine::types::CacheState;
use bise::model::ModelError;
use bise::model::weights::LoadError;

use crate::common::Random;
use crate::disk::{Cut, Disk};
use crate::support::{Options, Server, assert_state, load, load_kept, sha256_of, truth, weight_files};

fn integrity(error: LoadError<crate::common::recorder::Never>) -> Option<(String, String, String)> {
    match error {
        LoadError::Model(ModelError::Checkpoint(CheckpointError::Integrity {
            file,
            expected,
            found,
            ..
        })) => Some((file, expected, found)),
        _ => None,
    }
}

fn flip_somewhere(server: &Server, random: &mut Random) -> (String, u64) {
    let files = weight_files(&server.model);
    let file = files[random.below(files.len() as u64) as usize].clone();
    let bytes = pollster::block_on(bise::checkpoint::source::read_all(&server.model, &file, None, u64::MAX));
    (file, random.below(bytes.unwrap().len() as u64 * 8))
}

#[test]
fn in_the_cache() {
    let options = Options::default();
    let (truth, disk) = (truth(&options), Disk::default());
    let server = Server::new(&disk);
    load_kept(&server, &disk, &options).unwrap();
    for seed in 0..32 {
        let mut random = Random::new(seed);
        let file = if seed % 4 == 0 { "journal" } else { "pack" };
        let bit = random.below(disk.content(file).len() as u64 * 8);
        disk.flip(file, bit);
        let sent = server.sent.get();
        let loaded = load_kept(&server, &disk, &options).unwrap();
        assert!(loaded.weights == truth, "seed {seed}: bit {bit} of the {file} went through");
        assert!(
            loaded.cache.state != CacheState::Loaded,
            "seed {seed}: bit {bit} of the {file} was not seen"
        );
        // The last frame and the last point may differ by nothing but the file's end.
        assert!(server.sent.get() > sent || file == "journal", "seed {seed}");
        // Mended by what was downloaded again.
        assert_state(&load_kept(&server, &disk, &options).unwrap(), CacheState::Loaded);
    }
}

#[test]
fn in_a_cache_that_is_half_full() {
    let options = Options::default();
    let truth = truth(&options);
    for seed in 0..20 {
        let mut random = Random::new(1000 + seed);
        let disk = Disk::default();
        disk.cut_at(Cut::Bytes((4 << 20) + random.below(6 << 20)));
        let server = Server::new(&disk);
        assert!(load_kept(&server, &disk, &options).is_err());
        let disk = disk.after_cut(&mut random);
        for file in ["pack", "journal"] {
            let bytes = disk.content(file).len() as u64;
            disk.flip(file, random.below(bytes * 8));
        }
        let server = Server { disk: disk.clone(), ..server };
        assert!(load_kept(&server, &disk, &options).unwrap().weights == truth, "seed {seed}");
        assert_state(&load_kept(&server, &disk, &options).unwrap(), CacheState::Loaded);
    }
}

/// A point whose hash is none, or no state of one, would let the rest of its file go unchecked.
#[test]
fn in_a_hash_that_is_half_done() {
    let options = Options::default();
    for hash in [None, Some([0xff; STATE_BYTES])] {
        let disk = Disk::default();
        disk.cut_at(Cut::Bytes(6 << 20));
        let server = Server::new(&disk);
        assert!(load_kept(&server, &disk, &options).is_err());
        let disk = disk.after_cut(&mut Random::new(5));
        let mut journal = Journal::open(disk.open("journal")).unwrap();
        let points = journal.points().to_vec();
        let inside = points.iter().rposition(|point| point.hash.is_some()).unwrap();
        assert!(inside > 0 && points[inside].goes_on(), "{points:?}");
        let damaged = Point { hash, ..points[inside] };
        assert!(!damaged.goes_on());
        journal.cut(inside).unwrap();
        journal.append(damaged).unwrap();

        let server = Server { disk: disk.clone(), ..server };
        let loaded = load_kept(&server, &disk, &options).unwrap();
        assert!(loaded.weights == truth(&options));
        for file in weight_files(&server.model) {
            assert_eq!(loaded.hashes.get(&file), Some(&sha256_of(&server.model, &file)), "{file}");
        }
    }
}

/// A flipped bit of a weight file is an error that names the file; the next load is sound.
#[test]
fn on_the_way() {
    let plain = Options::default();
    let truth = truth(&plain);
    let (mut by_hash, mut by_format) = (0, 0);
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let disk = Disk::default();
        let server = Server::new(&disk);
        let mut options = plain.clone();
        for file in weight_files(&server.model) {
            let hash = sha256_of(&server.model, &file);
            match seed % 3 {
                0 => options.trust.manifest.insert(file, hash),
                1 => options.trust.hub.insert(file, hash),
                _ => {
                    let validator = server.validator.borrow().clone();
                    options.trust.pins.insert(file, Pin { validator, sha256: hash });
                    None
                }
            };
        }
        let (file, bit) = flip_somewhere(&server, &mut random);
        *server.flip.borrow_mut() = Some((file.clone(), bit));
        let error = load_kept(&server, &disk, &options).err();
        let error = error.unwrap_or_else(|| panic!("seed {seed}: bit {bit} of {file} went through"));
        let said = error.to_string();
        assert!(said.contains(&file), "seed {seed}: {said}");
        match integrity(error) {
            Some((named, expected, found)) => {
                // A pin has a way out.
                assert_eq!(said.contains("cache.forget"), seed % 3 == 2, "seed {seed}: {said}");
                assert_eq!((named, expected), (file.clone(), sha256_of(&server.model, &file)));
                assert_eq!(found.len(), 64);
                by_hash += 1;
            }
            // NaN, or a broken header.
            None => by_format += 1,
        }
        // The bad part is not kept: a sound server gives a sound model.
        *server.flip.borrow_mut() = None;
        assert!(load_kept(&server, &disk, &options).unwrap().weights == truth, "seed {seed}");
        assert_state(&load_kept(&server, &disk, &options).unwrap(), CacheState::Loaded);
    }
    println!("{by_hash} by their hash, {by_format} by the format");
    assert!(by_hash > 20, "{by_hash} by their hash");
}

/// A damaged header that still parses is kept with the small files, and goes with its file.
#[test]
fn in_a_header_on_the_way() {
    let (disk, mut options) = (Disk::default(), Options::default());
    let server = Server::new(&disk);
    let file = weight_files(&server.model).pop().unwrap();
    options.trust.hub.insert(file.clone(), sha256_of(&server.model, &file));
    let head = pollster::block_on(bise::checkpoint::source::read_all(&server.model, &file, Some(0..64), 64));
    // A blank behind a comma or at the end may become anything that JSON takes for one; 0x20 and 0x0a
    // differ by more than a bit, so the length of the header is what is left to flip into.
    let head = head.unwrap();
    assert!(head.len() == 64);
    for bit in [8 * 8 + 3, 8 * 20, 8 * 40 + 1] {
        *server.flip.borrow_mut() = Some((file.clone(), bit));
        assert!(load_kept(&server, &disk, &options).is_err(), "bit {bit}");
    }
    *server.flip.borrow_mut() = None;
    assert!(load_kept(&server, &disk, &options).unwrap().weights == truth(&Options::default()));
}

/// Negative control: without a hash to compare with, the same flip gives other weights, and the
/// comparison of weights sees it.
#[test]
fn without_a_hash_a_flip_goes_through() {
    let options = Options::default();
    let server = Server::new(&Disk::default());
    let file = weight_files(&server.model).remove(0);
    // The lowest bit of a weight in the middle of the embeddings, which stay wide.
    *server.flip.borrow_mut() = Some((file, (1 << 20) * 8));
    assert!(load(&server, None, &options).unwrap().weights != truth(&options));
}

/// A cache whose weights are not what the caller says they are is refused, and not kept.
#[test]
fn kept_weights_are_compared_with_the_manifest() {
    let (disk, options) = (Disk::default(), Options::default());
    let server = Server::new(&disk);
    load_kept(&server, &disk, &options).unwrap();
    let file = weight_files(&server.model).remove(1);
    let mut wrong = options.clone();
    wrong.trust.manifest.insert(file.clone(), "0".repeat(64));
    let error = load_kept(&server, &disk, &wrong).err().unwrap();
    assert_eq!(integrity(error).unwrap().0, file);
    let again = load_kept(&server, &disk, &options).unwrap();
    assert_state(&again, CacheState::Stored);
    assert!(again.weights == truth(&options));
}

#[test]
fn a_manifest_must_name_files_that_exist() {
    let mut options = Options::default();
    options.trust.manifest.insert("other.safetensors".to_owned(), "0".repeat(64));
    let error = load(&Server::new(&Disk::default()), None, &options).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("other.safetensors") && text.contains("model-00001-of-00003"), "{text}");
}
