//! What an HTTP answer means for a ranged read.

use bise::checkpoint::answer::{Answer, judge};

/// An answer to a request for 100..200.
const fn body(end: Option<u64>, file_bytes: Option<u64>) -> Answer {
    Answer::Body { end, file_bytes }
}

/// An answer to a request for the whole file.
const fn whole(bytes: Option<u64>) -> Answer {
    Answer::Body { end: bytes, file_bytes: bytes }
}

#[test]
fn a_partial_answer_counts_from_where_it_was_asked() {
    let asked = 100..200;
    let cases = [
        ("the range and the total", "bytes 100-199/5000", body(Some(200), Some(5000))),
        ("the total is unknown", "bytes 100-199/*", body(Some(200), None)),
        ("the file ends inside the range", "bytes 100-149/150", body(Some(150), Some(150))),
        ("less than asked, though there is more", "bytes 100-149/5000", body(Some(200), Some(5000))),
        ("less than asked, total unknown", "bytes 100-149/*", body(Some(150), None)),
        ("more than asked", "bytes 100-299/5000", body(Some(200), Some(5000))),
        ("beyond 4 GiB", "bytes 100-199/7300000000", body(Some(200), Some(7_300_000_000))),
        ("another start", "bytes 0-99/5000", Answer::WrongRange),
        ("a range outside the file", "bytes 100-199/150", Answer::WrongRange),
        ("a range backwards", "bytes 100-99/150", Answer::WrongRange),
        ("no range", "100-199/5000", Answer::WrongRange),
        ("no number", "bytes 100-x/5000", Answer::WrongRange),
        ("an end that cannot be", "bytes 100-18446744073709551615/*", Answer::WrongRange),
    ];
    for (what, header, expected) in cases {
        assert_eq!(judge(206, Some(header), None, Some(&asked)), expected, "{what}: {header}");
    }
}

#[test]
fn a_request_to_the_end_of_the_file() {
    let asked = 100..u64::MAX;
    let end = |end, file_bytes| Answer::Body { end, file_bytes };
    assert_eq!(judge(206, Some("bytes 100-149/150"), None, Some(&asked)), end(Some(150), Some(150)));
    assert_eq!(judge(206, Some("bytes 100-149/*"), None, Some(&asked)), end(Some(150), None));
    assert_eq!(judge(206, None, Some(50), Some(&asked)), end(Some(150), None));
    assert_eq!(judge(206, None, None, Some(&asked)), end(None, None));
}

#[test]
fn a_hidden_content_range_is_no_fault() {
    // Without it nobody knows whether the file reaches the end of the range.
    assert_eq!(judge(206, None, None, Some(&(100..200))), body(None, None));
    assert_eq!(judge(206, None, Some(100), Some(&(100..200))), body(Some(200), None));
    assert_eq!(judge(206, None, Some(40), Some(&(100..200))), body(Some(140), None));
}

#[test]
fn the_whole_file_is_an_answer_only_if_asked_for() {
    assert_eq!(judge(200, None, Some(42), None), whole(Some(42)));
    assert_eq!(judge(200, None, None, None), whole(None));
    assert_eq!(judge(200, None, Some(5000), Some(&(0..8))), Answer::Whole { file_bytes: Some(5000) });
    assert_eq!(judge(200, None, None, Some(&(8..9))), Answer::Whole { file_bytes: None });
}

#[test]
fn statuses() {
    let asked = 100..200;
    assert_eq!(judge(404, None, None, Some(&asked)), Answer::NotFound);
    assert_eq!(judge(410, None, None, None), Answer::NotFound);
    assert_eq!(judge(416, Some("bytes */50"), None, Some(&asked)), Answer::PastEnd { file_bytes: Some(50) });
    assert_eq!(judge(416, None, None, Some(&asked)), Answer::PastEnd { file_bytes: None });
    assert_eq!(judge(416, None, None, None), Answer::Status);
    assert_eq!(
        judge(206, Some("bytes 0-9/10"), None, None),
        Answer::Status,
        "a part of what was asked whole"
    );
    for status in [201, 204, 301, 401, 403, 429, 500, 503] {
        assert_eq!(judge(status, None, None, Some(&asked)), Answer::Status, "{status}");
    }
}
