//! Regular expressions as tokenizers use them: to cut a text into words.
//!
//! The syntax is fancy-regex's, read by its own parser. Its matcher brings five
//! engines of the regex crate along, a tenth of the whole module; a pattern that
//! cuts words needs none of them, but look-ahead, which they lack. So the pattern
//! is compiled to a short program here, and run by one backtracking matcher,
//! with the same results.

mod class;
mod compile;
mod program;
mod search;
#[cfg(test)]
mod tests;

use tokenizers::Offsets;
use tokenizers::pattern::Pattern;

pub(super) use class::Class;
use program::Program;
use search::Search;

/// A compiled regular expression.
pub(super) struct Regex(Program);

impl Regex {
    /// Compiles a pattern; the error says what in it is wrong or not supported.
    pub(super) fn new(pattern: &str) -> Result<Self, String> {
        compile::compile(pattern).map(Self)
    }
}

impl Pattern for &Regex {
    /// The whole text in parts, in order: what matches, and what lies between.
    fn find_matches(&self, text: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        let mut search = Search::new(&self.0, text);
        let mut parts = Vec::new();
        let (mut done, mut at, mut last) = (0, 0, None);
        while let Some((start, end)) = search.find(at)? {
            // After an empty match the next one begins a character further on.
            at = if start < end { end } else { end + text.get(end..).map_or(1, first_len) };
            if start == end && last.replace(end) == Some(end) {
                continue;
            }
            last = Some(end);
            if done < start {
                parts.push(((done, start), false));
            }
            parts.push(((start, end), true));
            done = end;
        }
        if done < text.len() || text.is_empty() {
            parts.push(((done, text.len()), false));
        }
        Ok(parts)
    }
}

/// Length of the first character in bytes; 1 behind the end, so that a search ends.
fn first_len(text: &str) -> usize {
    text.chars().next().map_or(1, char::len_utf8)
}
