//! What an HTTP answer means for the request it answers.

use std::ops::Range;

/// What to make of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The body starts where it was asked to.
    Body {
        /// First byte after the body, absolute, where the answer tells: a body that ends before was cut.
        end: Option<u64>,
        /// Length of the whole file.
        file_bytes: Option<u64>,
    },
    /// The range starts at or after the end of the file.
    PastEnd {
        /// Length of the whole file.
        file_bytes: Option<u64>,
    },
    /// The server sends the whole file instead of the range.
    Whole {
        /// Its length.
        file_bytes: Option<u64>,
    },
    /// The server sends another range than was asked for.
    WrongRange,
    /// No such file.
    NotFound,
    /// Any other status.
    Status,
}

/// Judges an answer to a request for `asked`, or for the whole file. `content_range` may be hidden
/// from a page of another origin; `content_length` counts only if the body is not compressed.
pub fn judge(
    status: u16,
    content_range: Option<&str>,
    content_length: Option<u64>,
    asked: Option<&Range<u64>>,
) -> Answer {
    match (status, asked) {
        (404 | 410, _) => Answer::NotFound,
        (416, Some(_)) => Answer::PastEnd { file_bytes: content_range.and_then(total) },
        (200, None) => Answer::Body { end: content_length, file_bytes: content_length },
        (200, Some(_)) => Answer::Whole { file_bytes: content_length },
        (206, Some(asked)) => partial(content_range, content_length, asked),
        _ => Answer::Status,
    }
}

fn partial(content_range: Option<&str>, content_length: Option<u64>, asked: &Range<u64>) -> Answer {
    let Some(content_range) = content_range else {
        // The file may end inside the range: whoever asked has to know whether enough came.
        let end = content_length.map(|bytes| asked.start.saturating_add(bytes).min(asked.end));
        return Answer::Body { end, file_bytes: None };
    };
    let Some((sent, file_bytes)) = parse(content_range) else {
        return Answer::WrongRange;
    };
    if sent.start != asked.start {
        return Answer::WrongRange;
    }
    // A server may send less than was asked for; only at the end of the file is that all there is.
    let end = file_bytes.map_or(sent.end.min(asked.end), |bytes| bytes.min(asked.end));
    Answer::Body { end: Some(end), file_bytes }
}

/// `bytes a-b/total` or `bytes a-b/*`, as a half-open range.
fn parse(content_range: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (span, all) = content_range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.trim().split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let file_bytes = match all.trim() {
        "*" => None,
        digits => Some(digits.parse::<u64>().ok()?),
    };
    let end = last.checked_add(1)?;
    let consistent = first <= last && file_bytes.is_none_or(|bytes| end <= bytes);
    consistent.then_some((first..end, file_bytes))
}

/// The byte after the last that a Content-Range announces.
pub(super) fn sent_end(content_range: &str) -> Option<u64> {
    parse(content_range).map(|(sent, _)| sent.end)
}

/// The length in `bytes */total`.
fn total(content_range: &str) -> Option<u64> {
    content_range.trim().strip_prefix("bytes */")?.trim().parse().ok()
}
