//! Stop strings: where generated text ends.
//!
//! One Knuth-Morris-Pratt automaton per stop string runs over the bytes, so the
//! result does not depend on how the text is cut into tokens: the stop string
//! that is complete first wins, and of those that end at the same byte the
//! longest. The text before it is kept, nothing of it or after it.

use super::error::TextError;

/// What may be shown after a piece of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopOutcome {
    /// Text that no stop string can claim any more.
    pub text: String,
    /// Whether a stop string was found. Nothing comes after it.
    pub stopped: bool,
}

/// Looks for stop strings in a growing text.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<Automaton>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

#[derive(Clone, Debug)]
struct Automaton {
    pattern: Vec<u8>,
    /// Length of the longest proper border of `pattern[..=i]`.
    border: Vec<usize>,
    /// How many bytes of the pattern the text ends with.
    matched: usize,
}

impl Automaton {
    fn new(pattern: &str) -> Self {
        let mut automaton =
            Self { pattern: pattern.as_bytes().to_vec(), border: vec![0; pattern.len()], matched: 0 };
        // The borders are what the automaton itself matches when it reads its own pattern from its second byte on.
        let mut matched = 0;
        for i in 1..pattern.len() {
            if let Some(&byte) = automaton.pattern.get(i) {
                matched = automaton.next(matched, byte);
            }
            if let Some(border) = automaton.border.get_mut(i) {
                *border = matched;
            }
        }
        automaton
    }

    /// How much is matched after `byte` where `matched` was before.
    fn next(&self, mut matched: usize, byte: u8) -> usize {
        loop {
            if self.pattern.get(matched) == Some(&byte) {
                return matched + 1;
            }
            match matched.checked_sub(1).and_then(|i| self.border.get(i)) {
                Some(&border) => matched = border,
                None => return 0,
            }
        }
    }
}

impl StopMatcher {
    /// A matcher for these strings; none is fine.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`].
    pub fn new(stops: &[String]) -> Result<Self, TextError> {
        if stops.iter().any(String::is_empty) {
            return Err(TextError::EmptyStop);
        }
        let stops = stops.iter().map(|s| Automaton::new(s)).collect();
        Ok(Self { stops, held: String::new(), stopped: false })
    }

    /// Adds text; returns what is safe to show, without the longest end that
    /// may still become a stop string.
    pub fn push(&mut self, text: &str) -> StopOutcome {
        if self.stopped {
            return StopOutcome { text: String::new(), stopped: true };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (i, byte) in text.bytes().enumerate() {
            if let Some(found) = self.step(byte) {
                let end = (before + i + 1).saturating_sub(found);
                self.stopped = true;
                self.held.truncate(end);
                return StopOutcome { text: std::mem::take(&mut self.held), stopped: true };
            }
        }
        // A match begins with the first byte of a character, so this is a border between characters.
        let open = self.stops.iter().map(|s| s.matched).max().unwrap_or(0);
        let keep = self.held.split_off(self.held.len().saturating_sub(open));
        StopOutcome { text: std::mem::replace(&mut self.held, keep), stopped: false }
    }

    /// Whether `push(text)` would stop, without doing it: for text that the
    /// decoder still holds back.
    pub fn would_stop(&self, text: &str) -> bool {
        if self.stopped || self.stops.is_empty() || text.is_empty() {
            return self.stopped;
        }
        self.clone().push(text).stopped
    }

    /// Ends the text; returns what was held back.
    pub fn finish(self) -> String {
        if self.stopped { String::new() } else { self.held }
    }

    /// Feeds one byte; the length of the longest stop string that ends here.
    fn step(&mut self, byte: u8) -> Option<usize> {
        let mut found = None;
        for stop in &mut self.stops {
            stop.matched = stop.next(stop.matched, byte);
            if stop.matched == stop.pattern.len() {
                found = found.max(Some(stop.matched));
            }
        }
        found
    }
}
