//! Servers that send whole files and nothing else: each file once, in order.

use std::rc::Rc;

use bise::checkpoint::retry::Network;
use bise::checkpoint::source::MemorySource;
use bise::checkpoint::steady::Steady;
use bise::checkpoint::{ByteSource, ByteStream, SourceError};

use crate::script::{FILE, Play, Script, bytes_of};
use crate::steady::read;

#[test]
fn a_file_without_ranges_comes_once_from_header_to_end() {
    for hidden in [false, true] {
        let source = Script { hidden, ..Script::new(20_000, |_, _| Play::Whole) }.steady();
        // As a manifest and a load read it: the start, the rest of a long header, the data in two
        // parts, the second with a byte more than there is.
        for range in [0..64, 64..1500, 1500..12_345, 12_345..20_001] {
            let expected = bytes_of(range.start..range.end.min(20_000));
            assert_eq!(read(&source, Some(range.clone())).unwrap(), expected, "{range:?}, hidden: {hidden}");
        }
        let script = source.transport();
        assert_eq!(script.asked().len(), 1, "{:?}", script.asked());
        assert_eq!(script.sent.get(), 20_000);
        assert_eq!(script.open.get(), 0, "nothing is left open at the end");
    }
}

#[test]
fn what_lies_between_is_skipped_and_what_lies_before_is_fetched_anew() {
    let source = Script::new(20_000, |_, _| Play::Whole).steady();
    for range in [0..64, 5000..6000, 8000..8001, 3000..4000, 4000..9000] {
        assert_eq!(read(&source, Some(range.clone())).unwrap(), bytes_of(range));
    }
    // Going back costs a second pass; so does nothing else.
    assert_eq!(source.transport().asked().len(), 2);
}

#[test]
fn a_whole_file_that_breaks_is_read_again_up_to_the_byte_reached() {
    let plays = |n: usize, _: &_| if n == 0 { Play::WholeCut(8000) } else { Play::Whole };
    for range in [Some(700..20_000), None] {
        let source = Script::new(20_000, plays).steady();
        let start = range.as_ref().map_or(0, |range| range.start);
        assert_eq!(read(&source, range).unwrap(), bytes_of(start..20_000));
        let script = source.transport();
        assert_eq!(script.asked()[1].start, 8000);
        assert_eq!(script.sent.get(), 8000 + 20_000);
        assert_eq!(script.waited.borrow().len(), 1);
    }
}

#[test]
fn servers_of_one_host_that_differ() {
    // Ranges at first, whole files later, and the other way round; in the middle of several ranges.
    for switch in 1..8 {
        for whole_first in [false, true] {
            let plays =
                move |n: usize, _: &_| if (n < switch) == whole_first { Play::Whole } else { Play::Serve };
            let source = Script::new(9000, plays).steady();
            assert_eq!(read(&source, Some(0..10)).unwrap(), bytes_of(0..10));
            let what = format!("switch at {switch}, whole first: {whole_first}");
            assert_eq!(read(&source, Some(10..9000)).unwrap(), bytes_of(10..9000), "{what}");
            assert!(
                source.transport().sent.get() < 30_000,
                "{what}: {} bytes",
                source.transport().sent.get()
            );
            assert_eq!(source.transport().open.get(), 0, "{what}");
        }
    }
}

#[test]
fn memory_is_bounded_where_the_reader_is_slow() {
    const MIB: u64 = 1 << 20;
    let mut script = Script::new(100 * MIB, |_, _| Play::Whole);
    script.piece = MIB / 2;
    let source = Steady::new(script, Network::default(), 16 * MIB..=16 * MIB, Rc::default());
    let script = source.transport();
    let clock = script.clock.clone();
    clock.clone().run(async {
        let mut stream = source.open(FILE, Some(0..100 * MIB)).await.unwrap().stream;
        let (mut read, mut most) = (0, 0);
        for _ in 0..60 {
            read += stream.next().await.unwrap().unwrap().len() as u64;
            clock.sleep(10_000).await;
            most = most.max(script.sent.get() - read);
        }
        assert!(most <= 9 * MIB, "{most}");
    });
}

#[test]
fn bodies_nobody_reads_on_are_few() {
    let source = Script::new(5000, |_, _| Play::Whole).steady();
    let script = source.transport();
    script.clock.clone().run(async {
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(source.open(FILE, Some(0..64)).await.unwrap().stream);
        }
        for stream in &mut streams {
            assert_eq!(stream.next().await.unwrap().unwrap(), bytes_of(0..64));
            assert_eq!(stream.next().await, Ok(None));
        }
    });
    assert!(script.open.get() <= 3, "{}", script.open.get());
    drop(source);
}

/// The same calls over memory give the same bytes.
#[test]
fn memory_is_the_oracle() {
    let memory = MemorySource::new([(FILE.to_owned(), bytes_of(0..3000))]);
    let source = Script::new(3000, |n, _| if n % 2 == 0 { Play::Whole } else { Play::Serve }).steady();
    for range in [None, Some(0..100), Some(50..3001), Some(2999..5000), Some(3000..3001), Some(4..4)] {
        let oracle = pollster::block_on(async {
            let mut stream = memory.open(FILE, range.clone()).await?.stream;
            let mut all = Vec::new();
            while let Some(piece) = stream.next().await? {
                all.extend(piece);
            }
            Ok::<_, SourceError>(all)
        });
        assert_eq!(read(&source, range.clone()), oracle, "{range:?}");
    }
}
