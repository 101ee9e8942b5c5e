//! What a regular expression is compiled to.

use fancy_regex::Assertion;

use super::Class;

/// Steps of a backtracking matcher; it begins with the first.
#[derive(Default)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) classes: Vec<Class>,
    /// The characters of words, where an assertion asks for them.
    pub(super) word: Option<Class>,
    /// Number of positions that the steps remember.
    pub(super) slots: usize,
}

/// One character.
#[derive(Clone, Copy)]
pub(super) enum One {
    Is(char),
    /// Of the class with this number.
    Of(usize),
    Any,
    NoNewline,
}

/// Numbers are those of steps.
pub(super) enum Step {
    One(One),
    /// A character `least` to `most` times, with nothing remembered for each.
    Run {
        one: One,
        least: usize,
        most: usize,
        greedy: bool,
    },
    Assert(Assertion),
    /// Goes on at the first; if that fails, at the second.
    Try(usize, usize),
    Jump(usize),
    /// Remembers the position.
    Mark(usize),
    /// Another round of a loop, unless nothing has been matched since the mark: that would go on for ever.
    Again {
        mark: usize,
        head: usize,
    },
    /// What follows, up to `Done`, is matched for itself; then it goes on at `next`.
    Alone {
        kind: Alone,
        next: usize,
    },
    /// The end of the whole, or of what is matched for itself.
    Done,
}

/// How a part is matched for itself.
pub(super) enum Alone {
    /// It goes on behind it, and does not come back to try another match.
    Atomic,
    /// It must match from here (or must not); it goes on here.
    Ahead { wanted: bool },
    /// It must match up to here (or must not), this many characters; it goes on here.
    Behind { wanted: bool, least: usize, most: Option<usize> },
}
