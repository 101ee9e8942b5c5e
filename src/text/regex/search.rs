//! Running a program over a text.

use fancy_regex::Assertion;

use super::program::{Alone, One, Program, Step};

/// Steps that a text may take in all: so many, and so many for each byte. Patterns
/// that cut words take a few dozen; the rest is for those that go back far.
const STEPS: u64 = 1 << 20;
const STEPS_PER_BYTE: u64 = 1 << 10;

/// One text, and what it has cost so far.
pub(super) struct Search<'a> {
    program: &'a Program,
    text: &'a str,
    steps_left: u64,
    slots: Vec<usize>,
    /// What to go back to, the latest last.
    trail: Vec<Back>,
}

enum Back {
    /// Go on with this step at this position.
    To { step: usize, at: usize },
    /// Go on with this step a character before `at`, and then before that, as far as `first`.
    Shorter { step: usize, first: usize, at: usize },
    /// Go on with this step after one more such character, up to `left` times.
    Longer { step: usize, one: One, left: usize, at: usize },
    /// Remember what was remembered before.
    Slot { number: usize, at: usize },
}

type Found<T> = Result<T, &'static str>;

impl<'a> Search<'a> {
    pub(super) fn new(program: &'a Program, text: &'a str) -> Self {
        let steps_left = STEPS.saturating_add(STEPS_PER_BYTE.saturating_mul(text.len() as u64));
        Self { program, text, steps_left, slots: vec![0; program.slots], trail: Vec::new() }
    }

    /// The first match that begins at or behind `from`: where it begins and ends.
    pub(super) fn find(&mut self, from: usize) -> Found<Option<(usize, usize)>> {
        let mut start = from;
        while start <= self.text.len() {
            self.trail.clear();
            if let Some(end) = self.run(0, start, None)? {
                return Ok(Some((start, end)));
            }
            start += super::first_len(self.rest(start));
        }
        Ok(None)
    }

    fn rest(&self, at: usize) -> &'a str {
        self.text.get(at..).unwrap_or_default()
    }

    fn before(&self, at: usize) -> Option<char> {
        self.text.get(..at)?.chars().next_back()
    }

    fn is(&self, one: One, c: char) -> bool {
        match one {
            One::Is(only) => c == only,
            One::Of(class) => self.program.classes.get(class).is_some_and(|class| class.has(c)),
            One::Any => true,
            One::NoNewline => c != '\n',
        }
    }

    /// Runs from a step at a position to `Done`, and at `target` where there is one; returns where it
    /// ended. What it left on the trail is taken off.
    fn run(&mut self, mut step: usize, mut at: usize, target: Option<usize>) -> Found<Option<usize>> {
        let bottom = self.trail.len();
        let program = self.program;
        loop {
            self.steps_left = self.steps_left.checked_sub(1).ok_or("its pattern takes too many steps")?;
            let goes_on = match program.steps.get(step) {
                Some(&Step::One(one)) => match self.rest(at).chars().next() {
                    Some(c) if self.is(one, c) => {
                        at += c.len_utf8();
                        step += 1;
                        true
                    }
                    _ => false,
                },
                Some(&Step::Run { one, least, most, greedy }) => {
                    step += 1;
                    self.run_of(one, least..=most, greedy, step, &mut at)
                }
                Some(&Step::Assert(assertion)) => {
                    step += 1;
                    self.holds(assertion, at)
                }
                Some(&Step::Try(first, second)) => {
                    self.trail.push(Back::To { step: second, at });
                    step = first;
                    true
                }
                Some(&Step::Jump(to)) => {
                    step = to;
                    true
                }
                Some(&Step::Mark(number)) => {
                    step += 1;
                    if let Some(slot) = self.slots.get_mut(number) {
                        self.trail.push(Back::Slot { number, at: *slot });
                        *slot = at;
                    }
                    true
                }
                Some(&Step::Again { mark, head }) => {
                    step = if self.slots.get(mark) == Some(&at) { step + 1 } else { head };
                    true
                }
                Some(Step::Alone { kind, next }) => {
                    let inner = step + 1;
                    step = *next;
                    self.alone(kind, inner, &mut at)?
                }
                Some(Step::Done) | None => {
                    if target.is_none_or(|target| target == at) {
                        self.trail.truncate(bottom);
                        return Ok(Some(at));
                    }
                    false
                }
            };
            if !goes_on && !self.back(bottom, &mut step, &mut at) {
                return Ok(None);
            }
        }
    }

    /// Takes a run of characters; more or fewer of them can be tried later.
    fn run_of(
        &mut self,
        one: One,
        count: std::ops::RangeInclusive<usize>,
        greedy: bool,
        step: usize,
        at: &mut usize,
    ) -> bool {
        let wanted = if greedy { *count.end() } else { *count.start() };
        let (mut taken, mut first) = (0, *at);
        for c in self.rest(*at).chars() {
            if taken == wanted || !self.is(one, c) {
                break;
            }
            *at += c.len_utf8();
            taken += 1;
            if taken == *count.start() {
                first = *at;
            }
        }
        if taken < *count.start() {
            return false;
        }
        if !greedy {
            self.trail.push(Back::Longer { step, one, left: count.end() - taken, at: *at });
        } else if first < *at {
            self.trail.push(Back::Shorter { step, first, at: *at });
        }
        true
    }

    /// Goes back to what was left to try. False if there is nothing above `bottom`.
    fn back(&mut self, bottom: usize, step: &mut usize, at: &mut usize) -> bool {
        while self.trail.len() > bottom {
            match self.trail.pop() {
                None => return false,
                Some(Back::To { step: to, at: there }) => {
                    (*step, *at) = (to, there);
                    return true;
                }
                Some(Back::Shorter { step: to, first, at: end }) => {
                    let shorter = end - self.before(end).map_or(1, char::len_utf8);
                    if first < shorter {
                        self.trail.push(Back::Shorter { step: to, first, at: shorter });
                    }
                    (*step, *at) = (to, shorter);
                    return true;
                }
                Some(Back::Longer { step: to, one, left, at: end }) => {
                    let Some(c) = self.rest(end).chars().next().filter(|&c| left > 0 && self.is(one, c))
                    else {
                        continue;
                    };
                    let end = end + c.len_utf8();
                    self.trail.push(Back::Longer { step: to, one, left: left - 1, at: end });
                    (*step, *at) = (to, end);
                    return true;
                }
                Some(Back::Slot { number, at: was }) => {
                    if let Some(slot) = self.slots.get_mut(number) {
                        *slot = was;
                    }
                }
            }
        }
        false
    }

    fn alone(&mut self, kind: &Alone, inner: usize, at: &mut usize) -> Found<bool> {
        match *kind {
            Alone::Atomic => Ok(match self.run(inner, *at, None)? {
                Some(end) => {
                    *at = end;
                    true
                }
                None => false,
            }),
            Alone::Ahead { wanted } => Ok(self.run(inner, *at, None)?.is_some() == wanted),
            Alone::Behind { wanted, least, most } => {
                let (mut start, mut count) = (*at, 0);
                loop {
                    if count >= least && self.run(inner, start, Some(*at))?.is_some() {
                        return Ok(wanted);
                    }
                    match self.before(start) {
                        Some(c) if most.is_none_or(|most| count < most) => {
                            start -= c.len_utf8();
                            count += 1;
                        }
                        _ => return Ok(!wanted),
                    }
                }
            }
        }
    }

    fn holds(&self, assertion: Assertion, at: usize) -> bool {
        let (before, after) = (self.before(at), self.rest(at).chars().next());
        let word = |c: Option<char>| c.zip(self.program.word.as_ref()).is_some_and(|(c, word)| word.has(c));
        let line_ends = |crlf: bool, c: char| c == '\n' || crlf && c == '\r';
        match assertion {
            Assertion::StartText => before.is_none(),
            Assertion::EndText => after.is_none(),
            Assertion::StartLine { crlf } => match before {
                Some('\r') if after == Some('\n') => false,
                before => before.is_none_or(|c| line_ends(crlf, c)),
            },
            Assertion::EndLine { crlf } => match after {
                Some('\n') if crlf && before == Some('\r') => false,
                after => after.is_none_or(|c| line_ends(crlf, c)),
            },
            Assertion::LeftWordBoundary => !word(before) && word(after),
            Assertion::LeftWordHalfBoundary => !word(before),
            Assertion::RightWordBoundary => word(before) && !word(after),
            Assertion::RightWordHalfBoundary => !word(after),
            Assertion::WordBoundary => word(before) != word(after),
            Assertion::NotWordBoundary => word(before) == word(after),
        }
    }
}
