//! The two files by themselves.

use bise::checkpoint::hash::FileHash;
use bise::checkpoint::journal::{FRAME_BYTES, Journal, Point};
use bise::checkpoint::pack::{HEAD_BYTES, Pack, PackError, Tag};

use crate::common::Random;
use crate::disk::Disk;

fn records(random: &mut Random) -> Vec<(Tag, Vec<u8>)> {
    let lengths = [0, 1, 3, 240, 241, 5000, (1 << 20) - 1, 1 << 20, (1 << 20) + 7, 100];
    let record = |length: usize| {
        let tag = Tag {
            kind: random.next() as u8,
            part: random.next() as u8,
            layer: random.next() as u16,
            row: random.next() as u32,
        };
        (tag, random.bytes(length))
    };
    lengths.map(record).to_vec()
}

#[test]
fn records_come_back() {
    let disk = Disk::default();
    let records = records(&mut Random::new(7));
    let mut pack = Pack::new(disk.open("pack"), 42, 0);
    for (tag, payload) in &records {
        pack.append(*tag, payload).unwrap();
    }
    pack.flush().unwrap();
    let expected: u64 = records.iter().map(|(_, payload)| HEAD_BYTES + payload.len() as u64).sum();
    assert_eq!((pack.bytes(), disk.content("pack").len() as u64), (expected, expected));
    let (mut at, mut payload) = (0, Vec::new());
    for (tag, written) in &records {
        let (found, next) = pack.read(at, pack.bytes(), &mut payload).unwrap();
        assert_eq!((found, &payload), (*tag, written));
        at = next;
    }
    assert_eq!(pack.read(at, pack.bytes(), &mut payload), Err(PackError::Damaged { at }));
    // Neither with another salt nor at another place.
    let other = Pack::new(disk.open("pack"), 43, pack.bytes());
    assert_eq!(other.read(0, pack.bytes(), &mut payload), Err(PackError::Damaged { at: 0 }));
    let content = disk.content("pack");
    let moved = Disk::default();
    moved.open("pack").write_at(HEAD_BYTES, &content).unwrap();
    let moved = Pack::new(moved.open("pack"), 42, HEAD_BYTES + expected);
    assert!(moved.read(HEAD_BYTES, HEAD_BYTES + expected, &mut payload).is_err());
}

/// A length that is damaged takes no memory for what is not there.
#[test]
fn a_length_beyond_the_file_takes_no_memory() {
    let disk = Disk::default();
    let mut pack = Pack::new(disk.open("pack"), 1, 0);
    pack.append(Tag::default(), &[7; 100]).unwrap();
    pack.flush().unwrap();
    let length_at = 12;
    assert_eq!(disk.content("pack")[length_at], 100);
    // 32 MiB and some.
    disk.flip("pack", length_at as u64 * 8 + 25);
    let mut payload = Vec::new();
    assert_eq!(pack.read(0, u64::MAX, &mut payload), Err(PackError::Damaged { at: 0 }));
    assert!(payload.capacity() < 1 << 20, "{} bytes", payload.capacity());
}

#[test]
fn every_bit_of_a_record_counts() {
    let disk = Disk::default();
    let mut pack = Pack::new(disk.open("pack"), 1, 0);
    pack.append(Tag { kind: 1, part: 2, layer: 3, row: 4 }, b"the weights").unwrap();
    pack.flush().unwrap();
    let (end, mut payload) = (pack.bytes(), Vec::new());
    assert!(pack.read(0, end, &mut payload).is_ok());
    for bit in 0..end * 8 {
        disk.flip("pack", bit);
        assert_eq!(pack.read(0, end, &mut payload), Err(PackError::Damaged { at: 0 }), "bit {bit}");
        disk.flip("pack", bit);
    }
}

fn point(number: u64) -> Point {
    let hash = (number % 2 == 1).then_some([number as u8; 104]);
    Point {
        pack_bytes: 1000 * number,
        done_bytes: 3000 * number,
        shard: 1,
        tensor: 2,
        offset: 5,
        complete: false,
        hash,
    }
}

#[test]
fn points_come_back_up_to_the_first_damaged_one() {
    let disk = Disk::default();
    let mut journal = Journal::open(disk.open("journal")).unwrap();
    journal.restart(99).unwrap();
    let points: Vec<Point> = (0..4).map(point).collect();
    for each in &points {
        journal.append(*each).unwrap();
    }
    let read = || Journal::open(disk.open("journal")).unwrap();
    assert_eq!((read().points(), read().salt()), (points.as_slice(), 99));
    for bit in 0..4 * FRAME_BYTES * 8 {
        disk.flip("journal", bit);
        let sound = (bit / 8 / FRAME_BYTES) as usize;
        assert_eq!(read().points(), &points[..sound], "bit {bit}");
        disk.flip("journal", bit);
    }
    journal.cut(2).unwrap();
    assert_eq!(read().points(), &points[..2]);
}

#[test]
fn a_hash_goes_on_from_its_state() {
    use sha2::{Digest, Sha256};
    let bytes = Random::new(3).bytes(1000);
    let whole: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    for cut in [0, 1, 63, 64, 65, 500, 1000] {
        let mut hash = FileHash::default();
        hash.update(&bytes[..cut]);
        let mut hash = FileHash::from_state(hash.state()).unwrap();
        hash.update(&bytes[cut..]);
        assert_eq!(hash.finish(), whole, "cut at {cut}");
    }
}
