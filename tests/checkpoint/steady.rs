//! Ranges in flight over a bad line: the right bytes, in order, asked for no more often than needed;
//! or the right error, and silence.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use bise::checkpoint::retry::Network;
use bise::checkpoint::steady::Steady;
use bise::checkpoint::{ByteSource, ByteStream, SourceError};
use proptest::prelude::*;

use crate::script::{FILE, Play, Script, bytes_of};

/// Everything in a range, or why not.
pub fn read(source: &Steady<Script>, range: Option<Range<u64>>) -> Result<Vec<u8>, SourceError> {
    source.transport().clock.clone().run(async {
        let mut stream = source.open(FILE, range).await?.stream;
        let mut all = Vec::new();
        while let Some(piece) = stream.next().await? {
            all.extend(piece);
        }
        assert_eq!(stream.next().await, Ok(None), "ends once");
        Ok(all)
    })
}

/// What went wrong with all attempts at a byte.
pub fn gave_up(source: &Steady<Script>, range: Range<u64>) -> (u64, u32, SourceError) {
    match read(source, Some(range)) {
        Err(SourceError::GaveUp { offset, attempts, error }) => (offset, attempts, *error),
        other => panic!("{other:?}"),
    }
}

/// A first request for the file's start, as a manifest makes one: from then on the server is known
/// to send ranges.
pub fn primed(script: Script) -> Steady<Script> {
    let source = script.steady();
    assert_eq!(read(&source, Some(0..10)).unwrap(), bytes_of(0..10));
    source.transport().log.borrow_mut().clear();
    source
}

#[test]
fn several_ranges_are_on_their_way_and_come_in_order() {
    let source = primed(Script::new(10_000, |_, _| Play::Serve));
    let began = source.transport().clock.now.get();
    assert_eq!(read(&source, Some(10..9_500)).unwrap(), bytes_of(10..9_500));
    let script = source.transport();
    let ms = script.clock.now.get() - began;
    let expected: Vec<Range<u64>> =
        (0..9).map(|lane| 10 + 1000 * lane..1010 + 1000 * lane).chain(std::iter::once(9010..9500)).collect();
    assert_eq!(script.asked(), expected);
    assert_eq!(script.most_open.get(), 4);
    // One after the other would take 10 answers and 95 pieces of 5 ms.
    assert!(ms < 5 * 105 / 3, "{ms} ms");
    assert_eq!(script.sent.get(), 10 + 9490, "every byte once");
    assert_eq!(script.open.get(), 0);
}

#[test]
fn a_server_that_was_not_heard_is_asked_for_one_range_first() {
    let source = Script::new(10_000, |_, _| Play::Serve).steady();
    assert_eq!(read(&source, Some(0..5000)).unwrap(), bytes_of(0..5000));
    let log = source.transport().log.borrow();
    let first: Vec<u64> = log.iter().map(|asked| asked.at_ms).collect();
    // The others go out with the first answer, which takes 5 ms.
    assert_eq!(first[..4], [0, 5, 5, 5]);
}

#[test]
fn whole_files_and_ranges_beyond_the_end() {
    for hidden in [false, true] {
        let script = || Script { hidden, ..Script::new(2500, |_, _| Play::Serve) };
        assert_eq!(read(&script().steady(), None).unwrap(), bytes_of(0..2500), "hidden: {hidden}");
        for range in [0..2500, 0..2501, 2400..2501, 0..9000, 2499..2600, 2500..2501, 7000..9000, 5..5] {
            let source = script().steady();
            let expected = bytes_of(range.start.min(2500)..range.end.min(2500));
            assert_eq!(read(&source, Some(range.clone())).unwrap(), expected, "{range:?}, hidden: {hidden}");
            assert!(source.transport().asked().len() <= 7, "{range:?}: {:?}", source.transport().asked());
        }
        let empty = Script { hidden, ..Script::new(0, |_, _| Play::Serve) };
        assert!(read(&empty.steady(), None).unwrap().is_empty());
    }
    // One byte more than there is, of a file whose length nobody tells, takes no request of its own.
    let source = Script { hidden: true, ..Script::new(2500, |_, _| Play::Serve) }.steady();
    read(&source, Some(0..2501)).unwrap();
    assert_eq!(source.transport().asked(), [0..1000, 1000..2000, 2000..2501]);
}

#[test]
fn what_is_opened_says_what_the_server_says() {
    let mut script = Script::new(2500, |_, _| Play::Tagged("W/\"x\"".into()));
    script.piece = 7;
    let source = script.steady();
    let opened = source.transport().clock.clone().run(source.open(FILE, Some(0..10))).unwrap();
    assert_eq!((opened.file_bytes, opened.validator.as_deref()), (Some(2500), Some("W/\"x\"")));
}

#[test]
fn a_cut_connection_goes_on_at_the_byte_reached() {
    // The second range breaks twice, after 300 and another 250 bytes.
    let source = primed(Script::new(5000, |_, asked| match (asked.range.clone().unwrap(), asked.at_ms) {
        (Range { start: 1000, .. }, _) => Play::Cut(300),
        (Range { start: 1300, .. }, _) => Play::Cut(250),
        _ => Play::Serve,
    }));
    assert_eq!(read(&source, Some(0..5000)).unwrap(), bytes_of(0..5000));
    let script = source.transport();
    let of_second: Vec<Range<u64>> =
        script.asked().into_iter().filter(|r| (1000..2000).contains(&r.start)).collect();
    assert_eq!(of_second, [1000..2000, 1300..2000, 1550..2000]);
    assert_eq!(script.sent.get(), 10 + 5000, "every byte once");
    let waited = script.waited.borrow();
    assert!(waited.iter().all(|w| w.reason.contains("connection cut") && w.ms > 0), "{waited:?}");
}

#[test]
fn a_body_that_ends_early_goes_on_too() {
    for hidden in [false, true] {
        let plays = |n: usize, _: &_| if n == 1 { Play::Short(400) } else { Play::Serve };
        let source = Script { hidden, ..Script::new(5000, plays) }.steady();
        assert_eq!(read(&source, Some(0..5000)).unwrap(), bytes_of(0..5000), "hidden: {hidden}");
        assert!(source.transport().asked().contains(&(1400..2000)), "{:?}", source.transport().asked());
    }
}

#[test]
fn a_server_that_sends_little_at_a_time_has_not_failed() {
    let source = Script::new(5000, |_, _| Play::Capped(90)).steady();
    assert_eq!(read(&source, Some(0..5000)).unwrap(), bytes_of(0..5000));
    let script = source.transport();
    assert!(script.waited.borrow().is_empty(), "{:?}", script.waited.borrow());
    // The last range of each lane is shorter.
    assert_eq!(script.asked().len(), 5 * 1000_usize.div_ceil(90));
}

#[test]
fn side_files_are_fetched_whole_and_go_on_too() {
    let source = Script::new(5000, |n, _| if n == 0 { Play::Cut(1234) } else { Play::Serve }).steady();
    assert_eq!(read(&source, None).unwrap(), bytes_of(0..5000));
    assert_eq!(source.transport().asked(), [0..u64::MAX, 1234..u64::MAX]);
    assert_eq!(source.transport().sent.get(), 5000);
}

#[test]
fn waits_double_and_vary_and_the_error_says_all() {
    let source = primed(Script::new(5000, |n, _| if n == 0 { Play::Serve } else { Play::Cut(0) }));
    let (offset, attempts, error) = gave_up(&source, 2000..3000);
    assert_eq!((offset, attempts), (2000, 6));
    let text = SourceError::GaveUp { offset, attempts, error: Box::new(error) }.to_string();
    for part in [FILE, "connection cut", "byte 2000", "attempts: 6"] {
        assert!(text.contains(part), "{text}");
    }
    let waited = source.transport().waited.borrow();
    assert_eq!(waited.iter().map(|w| w.attempt).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    for (n, waiting) in waited.iter().enumerate() {
        let most = 500 << n;
        assert!((most / 2..=most).contains(&waiting.ms), "{waited:?}");
    }
    let shares: Vec<u64> = waited.iter().enumerate().map(|(n, w)| w.ms >> n).collect();
    assert!(shares.iter().any(|share| share.abs_diff(shares[0]) > 5), "jitter: {waited:?}");
    let log = source.transport().log.borrow();
    let gaps = log.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms);
    assert!(gaps.zip(waited.iter()).all(|(gap, w)| gap >= w.ms && gap < w.ms + 50), "{log:?} {waited:?}");
}

#[test]
fn bytes_that_come_make_failures_forgotten() {
    // Each connection brings 300 KiB and breaks: far more than six of them are needed.
    let mut script = Script::new(10 << 20, |_, _| Play::Cut(300 << 10));
    script.piece = 64 << 10;
    let source = Steady::new(script, Network::default(), 16 << 20..=16 << 20, Rc::default());
    assert_eq!(read(&source, Some(0..10 << 20)).unwrap().len(), 10 << 20);
    assert!(source.transport().asked().len() > 30);
    // With a hundredth of that they are not.
    let mut script = Script::new(10 << 20, |_, _| Play::Cut(3 << 10));
    script.piece = 64 << 10;
    let source = Steady::new(script, Network::default(), 16 << 20..=16 << 20, Rc::default());
    let (offset, attempts, _) = gave_up(&source, 0..10 << 20);
    assert_eq!((offset, attempts), (6 * (3 << 10), 6));
}

#[test]
fn statuses_that_pass_are_tried_again_and_others_are_not() {
    for (status, passes) in [
        (408, true),
        (425, true),
        (429, true),
        (500, true),
        (502, true),
        (503, true),
        (504, true),
        (522, true),
        (400, false),
        (401, false),
        (403, false),
        (410, false),
        (418, false),
        (501, false),
        (505, false),
    ] {
        let source =
            Script::new(500, move |n, _| if n < 2 { Play::Status(status, None) } else { Play::Serve })
                .steady();
        let result = read(&source, Some(0..500));
        if passes {
            assert_eq!(result.unwrap(), bytes_of(0..500), "{status}");
        } else {
            let error = result.unwrap_err();
            let said = match &error {
                SourceError::NotFound { file } => (file.clone(), 410),
                SourceError::Status { file, status } => (file.clone(), *status),
                other => panic!("{status}: {other:?}"),
            };
            assert_eq!(said, (format!("https://host/{FILE}"), status));
            assert_eq!(source.transport().asked().len(), 1, "{status}");
        }
    }
}

#[test]
fn retry_after_is_honoured_by_every_range() {
    // The third request is told to come back in 7 s, or at 00:00:08 on the clock's first day.
    for asks in ["7", "Thu, 01 Jan 1970 00:00:08 GMT"] {
        let source = primed(Script::new(9000, move |n, _| match n {
            3 => Play::Status(429, Some(asks.into())),
            _ => Play::Serve,
        }));
        assert_eq!(read(&source, Some(0..9000)).unwrap(), bytes_of(0..9000));
        let log = source.transport().log.borrow();
        let (before, after): (Vec<_>, Vec<_>) = log.iter().partition(|asked| asked.at_ms < 1000);
        assert_eq!(before.len(), 4, "those that were on their way: {log:?}");
        assert!(after.iter().all(|asked| asked.at_ms >= 7000), "{log:?}");
        assert!(after.iter().all(|asked| asked.at_ms < 9000), "{log:?}");
    }
    // Nobody wants to wait for an hour.
    let source = Script::new(500, |_, _| Play::Status(503, Some("3600".into()))).steady();
    let error = read(&source, Some(0..500)).unwrap_err();
    assert_eq!(error, SourceError::Status { file: format!("https://host/{FILE}"), status: 503 });
    assert_eq!(source.transport().clock.now.get(), 5);
}

#[test]
fn a_connection_that_delivers_nothing_is_replaced() {
    for play in [Play::Stall(300), Play::Hang] {
        let source = primed(Script::new(5000, move |n, _| if n == 2 { play.clone() } else { Play::Serve }));
        assert_eq!(read(&source, Some(0..5000)).unwrap(), bytes_of(0..5000));
        let script = source.transport();
        assert!((30_000..31_500).contains(&script.clock.now.get()), "{} ms", script.clock.now.get());
        assert_eq!(script.sent.get(), 10 + 5000, "every byte once");
        assert_eq!(script.waited.borrow().len(), 1);
        assert!(script.waited.borrow()[0].reason.contains("nothing came for 30 s"));
    }
    let source = primed(Script::new(500, |n, _| if n == 0 { Play::Serve } else { Play::Hang }));
    assert_eq!(gave_up(&source, 0..500).1, 6);
}

#[test]
fn a_slow_reader_is_no_stall() {
    let source = primed(Script::new(5000, |_, _| Play::Serve));
    let script = source.transport();
    let all = script.clock.clone().run(async {
        let mut stream = source.open(FILE, Some(0..5000)).await.unwrap().stream;
        let mut all = Vec::new();
        while let Some(piece) = stream.next().await.unwrap() {
            all.extend(piece);
            script.clock.sleep(40_000).await;
        }
        all
    });
    assert_eq!(all, bytes_of(0..5000));
    assert_eq!(script.asked().len(), 5);
}

#[test]
fn memory_is_bounded_where_the_reader_is_slow() {
    const MIB: u64 = 1 << 20;
    let mut script = Script::new(200 * MIB, |_, _| Play::Serve);
    script.piece = MIB / 2;
    let source = Steady::new(script, Network::default(), 16 * MIB..=16 * MIB, Rc::default());
    let script = source.transport();
    let clock = script.clock.clone();
    clock.clone().run(async {
        let mut stream = source.open(FILE, Some(0..200 * MIB)).await.unwrap().stream;
        let (mut read, mut most) = (0, 0);
        for _ in 0..40 {
            read += stream.next().await.unwrap().unwrap().len() as u64;
            clock.sleep(10_000).await;
            most = most.max(script.sent.get() - read);
        }
        // Four lanes of 8 MiB, and a piece each.
        assert!((24 * MIB..=34 * MIB).contains(&most), "{most}");
    });
}

#[test]
fn lanes_are_longer_where_bytes_come_at_once() {
    // Ten pieces a lane at first: 10 ms; later 300 ms a piece, and then 10.
    let pace = |from: u64| match from {
        ..40_000 => 1,
        40_000..160_000 => 300,
        _ => 10,
    };
    let script =
        Script::new(200_000, move |_, asked| Play::Paced(pace(asked.range.as_ref().map_or(0, |r| r.start))));
    let source = Steady::new(script, Network::default(), 1000..=8000, Rc::default());
    assert_eq!(read(&source, Some(0..200_000)).unwrap(), bytes_of(0..200_000));
    let longest = |places: Range<u64>| {
        let asked = source.transport().asked();
        let lengths = asked.iter().filter(|range| places.contains(&range.start)).map(|r| r.end - r.start);
        lengths.max().unwrap()
    };
    assert_eq!(longest(0..1000), 1000);
    assert_eq!(longest(20_000..40_000), 8000);
    assert_eq!(longest(150_000..160_000), 1000);
    // 1000 bytes take 100 ms here, which is neither much nor little.
    assert_eq!(longest(170_000..198_000), 1000);
}

#[test]
fn two_streams_that_read_ahead_share_the_lanes_fairly() {
    let lanes = Rc::new(Cell::new(0));
    let script = Script::new(90_000, |_, _| Play::Serve);
    let source = Steady::new(script, Network::default(), 1000..=1000, lanes.clone());
    let clock = source.transport().clock.clone();
    clock.run(async {
        let mut one = source.open(FILE, Some(0..40_000)).await.unwrap().stream;
        let mut other = source.open(FILE, Some(50_000..90_000)).await.unwrap().stream;
        for _ in 0..100 {
            one.next().await.unwrap();
            other.next().await.unwrap();
        }
        // Begun while there was nobody else, the first had all four.
        let asked = source.transport().asked();
        let ahead = |from: u64| asked.iter().filter(|range| range.start / 50_000 == from / 50_000).count();
        assert!(ahead(0).abs_diff(ahead(50_000)) <= 2, "{} {}", ahead(0), ahead(50_000));
        assert!(ahead(50_000) > 10, "{}", ahead(50_000));
        assert_eq!(lanes.get(), 4);
    });
}

#[test]
fn streams_share_the_lanes() {
    let lanes = Rc::new(Cell::new(0));
    let source = |_| {
        Steady::new(Script::new(9000, |_, _| Play::Serve), Network::default(), 1000..=1000, lanes.clone())
    };
    let (one, other) = (source(0), source(1));
    let clock = one.transport().clock.clone();
    clock.run(async {
        let mut first = one.open(FILE, Some(0..9000)).await.unwrap().stream;
        first.next().await.unwrap();
        assert_eq!(lanes.get(), 4);
        // Each stream has a lane of its own in any case, or they would wait for each other.
        let second = other.transport().clock.run(other.open(FILE, Some(0..9000))).unwrap().stream;
        assert_eq!(lanes.get(), 5);
        drop(first);
        assert_eq!(lanes.get(), 1);
        drop(second);
        assert_eq!(lanes.get(), 0);
    });
}

#[test]
fn a_file_that_changes_is_an_error_and_never_a_mix() {
    let changes =
        |from: usize| move |n: usize, _: &_| Play::Tagged(if n < from { "\"1\"" } else { "\"2\"" }.into());
    // Between the header and the rest, between two ranges, and between two attempts.
    for from in [1, 2, 4] {
        let source = Script::new(5000, changes(from)).steady();
        read(&source, Some(0..10)).unwrap();
        let error = read(&source, Some(10..5000)).unwrap_err();
        assert!(matches!(error, SourceError::Changed { .. }), "{from}: {error:?}");
        assert_eq!(source.transport().open.get(), 0);
    }
    // Where its hash is compared, servers need not agree on what they call it; another file's is not.
    let hashing = |file: &str| Script::new(5000, changes(2)).steady().hashing(vec![file.into()]);
    read(&hashing(FILE), Some(0..5000)).unwrap();
    assert!(matches!(read(&hashing("other"), Some(0..5000)), Err(SourceError::Changed { .. })));
    let source = Script::new(5000, |n, _| match n {
        0 => Play::Cut(70),
        _ => Play::Tagged("\"2\"".into()),
    });
    let changed = SourceError::Changed { file: format!("https://host/{FILE}"), offset: 70 };
    assert_eq!(read(&source.steady(), None), Err(changed));
    // A weak ETag is as good as a strong one.
    let same = Script::new(5000, |_, _| Play::Tagged("W/\"1\"".into())).steady();
    assert_eq!(read(&same, Some(0..5000)).unwrap(), bytes_of(0..5000));
}

#[test]
fn a_host_that_was_never_heard_is_given_up_early() {
    let source = Script::new(500, |_, _| Play::Refuse).steady();
    let (offset, attempts, error) = gave_up(&source, 0..500);
    assert_eq!((offset, attempts), (0, 2));
    assert!(matches!(error, SourceError::Network { .. }));
    let source = primed(Script::new(500, |n, _| if n == 0 { Play::Serve } else { Play::Refuse }));
    assert_eq!(gave_up(&source, 0..500).1, 6);
}

#[test]
fn a_missing_file_is_missing_however_often_the_server_failed_before() {
    let source = Script::new(500, |n, _| Play::Status(if n < 2 { 503 } else { 404 }, None)).steady();
    assert_eq!(read(&source, None), Err(SourceError::NotFound { file: format!("https://host/{FILE}") }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever goes wrong for a while, the bytes are right; so they are however they are cut.
    #[test]
    fn faults_that_pass_do_not_show(
        length in 1_u64..9000,
        range in (0_u64..9500, 0_u64..9500),
        piece in 1_u64..2000,
        ms in 0_u64..50,
        hidden: bool,
        faults in prop::collection::vec((0_u8..6, 0_u64..1200), 0..12),
    ) {
        let range = range.0.min(range.1)..range.0.max(range.1);
        let faults: Vec<Play> = faults.into_iter().map(|(kind, bytes)| match kind {
            0 => Play::Cut(bytes),
            1 => Play::Stall(bytes),
            2 => Play::Status(503, None),
            3 => Play::Status(429, Some("2".into())),
            4 => Play::Hang,
            _ => Play::Serve,
        }).collect();
        // No byte meets more than four faults in a row.
        let plays = move |n: usize, _: &_| match n % 5 {
            4 => Play::Serve,
            _ => n.checked_sub(1).and_then(|n| faults.get(n).cloned()).unwrap_or(Play::Serve),
        };
        let mut script = Script::new(length, plays);
        (script.piece, script.ms, script.hidden) = (piece, ms, hidden);
        let source = Steady::new(script, Network { attempts: 20, ..Network::default() }, 1000..=1000, Rc::default());
        // Hosts that were never heard are given up sooner.
        read(&source, Some(0..1)).unwrap();
        let expected = bytes_of(range.start.min(length)..range.end.min(length));
        prop_assert_eq!(read(&source, Some(range.clone())).unwrap(), expected);
        prop_assert_eq!(source.transport().open.get(), 0);
    }
}

/// Negative control: a server that sends other bytes than it says is seen by these comparisons.
#[test]
fn the_comparison_sees_a_shifted_byte() {
    let source = primed(Script::new(5000, |n, _| if n == 3 { Play::Shifted } else { Play::Serve }));
    assert_ne!(read(&source, Some(0..5000)).unwrap(), bytes_of(0..5000));
}
