//! A pattern -> the program that matches it.

use std::ops::RangeInclusive;

use fancy_regex::{Assertion, Expr, LookAround};

use super::Class;
use super::program::{Alone, One, Program, Step};

/// Most steps of a program: `{1000}` in `{1000}` would fill the memory.
const STEP_LIMIT: usize = 1 << 15;

pub(super) fn compile(pattern: &str) -> Result<Program, String> {
    let tree = Expr::parse_tree(pattern).map_err(|e| format!("regular expression {pattern:?}: {e}"))?;
    let mut compiler = Compiler { program: Program::default() };
    let compiled = compiler.add(&tree.expr);
    compiled.map_err(|reason| format!("regular expression {pattern:?}: {reason}"))?;
    compiler.program.steps.push(Step::Done);
    Ok(compiler.program)
}

struct Compiler {
    program: Program,
}

type Compiled<T = ()> = Result<T, String>;

impl Compiler {
    fn push(&mut self, step: Step) -> Compiled<usize> {
        let number = self.program.steps.len();
        if number == STEP_LIMIT {
            return Err("it is too large".to_owned());
        }
        self.program.steps.push(step);
        Ok(number)
    }

    fn next(&self) -> usize {
        self.program.steps.len()
    }

    fn set(&mut self, number: usize, step: Step) {
        if let Some(place) = self.program.steps.get_mut(number) {
            *place = step;
        }
    }

    fn add(&mut self, expr: &Expr) -> Compiled {
        if let Some(one) = self.one(expr)? {
            self.push(Step::One(one))?;
            return Ok(());
        }
        match expr {
            Expr::Empty => Ok(()),
            Expr::Assertion(assertion) => self.assert(*assertion),
            Expr::Literal { val, casei } => val.chars().try_for_each(|c| {
                let one = self.literal(c, *casei)?;
                self.push(Step::One(one)).map(drop)
            }),
            Expr::Concat(all) => all.iter().try_for_each(|expr| self.add(expr)),
            Expr::Alt(all) => self.alternatives(all),
            Expr::Group(inner) => self.add(inner),
            Expr::Repeat { child, lo, hi, greedy } => self.repeat(child, *lo, *hi, *greedy),
            Expr::AtomicGroup(inner) => self.alone(Alone::Atomic, inner),
            Expr::LookAround(inner, direction) => {
                let lengths = length(inner);
                let behind = |wanted| {
                    let most = Some(*lengths.end()).filter(|&most| most < usize::MAX);
                    Alone::Behind { wanted, least: *lengths.start(), most }
                };
                let kind = match direction {
                    LookAround::LookAhead => Alone::Ahead { wanted: true },
                    LookAround::LookAheadNeg => Alone::Ahead { wanted: false },
                    LookAround::LookBehind => behind(true),
                    LookAround::LookBehindNeg => behind(false),
                };
                self.alone(kind, inner)
            }
            // `\Z`, the only one that is not one character.
            Expr::Delegate { .. } => {
                self.push(Step::Run { one: One::Is('\n'), least: 0, most: usize::MAX, greedy: true })?;
                self.assert(Assertion::EndText)
            }
            _ => Err("only what finds words is supported, no references to groups, \\K or \\G".to_owned()),
        }
    }

    /// The expression as one character, if it always is one.
    fn one(&mut self, expr: &Expr) -> Compiled<Option<One>> {
        Ok(match expr {
            Expr::Any { newline: true } => Some(One::Any),
            Expr::Any { newline: false } => Some(One::NoNewline),
            Expr::Literal { val, casei } => {
                let mut chars = val.chars();
                match (chars.next(), chars.next()) {
                    (Some(only), None) => Some(self.literal(only, *casei)?),
                    _ => None,
                }
            }
            Expr::Delegate { inner, size: 1, casei } => Some(self.class(inner, *casei)?),
            Expr::Group(inner) => self.one(inner)?,
            _ => None,
        })
    }

    fn literal(&mut self, c: char, ignore_case: bool) -> Compiled<One> {
        if !ignore_case {
            return Ok(One::Is(c));
        }
        self.class(&format!("\\x{{{:X}}}", u32::from(c)), true)
    }

    fn class(&mut self, pattern: &str, ignore_case: bool) -> Compiled<One> {
        self.program.classes.push(Class::new(pattern, ignore_case)?);
        Ok(One::Of(self.program.classes.len() - 1))
    }

    fn assert(&mut self, assertion: Assertion) -> Compiled {
        let positions = matches!(
            assertion,
            Assertion::StartText
                | Assertion::EndText
                | Assertion::StartLine { .. }
                | Assertion::EndLine { .. }
        );
        if !positions && self.program.word.is_none() {
            self.program.word = Some(Class::new(r"\w", false)?);
        }
        self.push(Step::Assert(assertion)).map(drop)
    }

    fn alternatives(&mut self, all: &[Expr]) -> Compiled {
        let mut ends = Vec::new();
        for (index, expr) in all.iter().enumerate() {
            if index + 1 == all.len() {
                self.add(expr)?;
                break;
            }
            let fork = self.push(Step::Done)?;
            self.add(expr)?;
            ends.push(self.push(Step::Done)?);
            self.set(fork, Step::Try(fork + 1, self.next()));
        }
        for end in ends {
            self.set(end, Step::Jump(self.next()));
        }
        Ok(())
    }

    fn repeat(&mut self, child: &Expr, least: usize, most: usize, greedy: bool) -> Compiled {
        if most < least {
            return Err(format!("{{{least},{most}}} is no range"));
        }
        if let Some(one) = self.one(child)? {
            return self.push(Step::Run { one, least, most, greedy }).map(drop);
        }
        let fork =
            |inside, behind| if greedy { Step::Try(inside, behind) } else { Step::Try(behind, inside) };
        for _ in 0..least {
            self.add(child)?;
        }
        if most == usize::MAX {
            let head = self.push(Step::Done)?;
            let mark = self.program.slots;
            self.program.slots += 1;
            self.push(Step::Mark(mark))?;
            self.add(child)?;
            self.push(Step::Again { mark, head })?;
            self.set(head, fork(head + 1, self.next()));
            return Ok(());
        }
        let mut forks = Vec::new();
        for _ in least..most {
            forks.push(self.push(Step::Done)?);
            self.add(child)?;
        }
        for number in forks {
            self.set(number, fork(number + 1, self.next()));
        }
        Ok(())
    }

    fn alone(&mut self, kind: Alone, inner: &Expr) -> Compiled {
        let head = self.push(Step::Done)?;
        self.add(inner)?;
        self.push(Step::Done)?;
        self.set(head, Step::Alone { kind, next: self.next() });
        Ok(())
    }
}

/// How many characters an expression matches; `usize::MAX` stands for any number.
fn length(expr: &Expr) -> RangeInclusive<usize> {
    match expr {
        Expr::Empty | Expr::Assertion(_) | Expr::LookAround(..) => 0..=0,
        Expr::Any { .. } => 1..=1,
        Expr::Delegate { size, .. } => *size..=*size,
        Expr::Literal { val, .. } => {
            let count = val.chars().count();
            count..=count
        }
        Expr::Concat(all) => all.iter().map(length).fold(0..=0, |sum, next| {
            sum.start().saturating_add(*next.start())..=sum.end().saturating_add(*next.end())
        }),
        Expr::Alt(all) => {
            let lengths = all.iter().map(length);
            lengths.reduce(|a, b| *a.start().min(b.start())..=*a.end().max(b.end())).unwrap_or(0..=0)
        }
        Expr::Group(inner) | Expr::AtomicGroup(inner) => length(inner),
        Expr::Repeat { child, lo, hi, .. } => {
            let each = length(child);
            each.start().saturating_mul(*lo)..=each.end().saturating_mul(*hi)
        }
        // Refused when they are compiled.
        _ => 0..=usize::MAX,
    }
}
