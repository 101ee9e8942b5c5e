//! Sets of characters.

use regex_syntax::ParserBuilder;
use regex_syntax::hir::{self, HirKind};

/// A set of characters.
pub(in crate::text) struct Class {
    /// The first 128 characters, one bit each: nearly every text is made of them.
    ascii: u128,
    /// The others: ranges, both ends included, in order.
    ranges: Box<[(char, char)]>,
}

impl Class {
    /// Reads a bracketed class or an escape like `\p{L}`.
    pub(in crate::text) fn new(pattern: &str, ignore_case: bool) -> Result<Self, String> {
        let parsed = ParserBuilder::new().case_insensitive(ignore_case).build().parse(pattern);
        let hir = parsed.map_err(|_| format!("{pattern:?} is no set of characters"))?;
        match hir.kind() {
            HirKind::Class(hir::Class::Unicode(set)) => {
                Ok(Self::of(set.ranges().iter().map(|range| (range.start(), range.end()))))
            }
            HirKind::Literal(literal) => {
                let mut chars = std::str::from_utf8(&literal.0).unwrap_or_default().chars();
                match (chars.next(), chars.next()) {
                    (Some(only), None) => Ok(Self::of([(only, only)].into_iter())),
                    _ => Err(format!("{pattern:?} is no set of characters")),
                }
            }
            _ => Err(format!("{pattern:?} is no set of characters")),
        }
    }

    fn of(ranges: impl Iterator<Item = (char, char)>) -> Self {
        let (mut ascii, mut beyond) = (0, Vec::new());
        for (first, last) in ranges {
            for c in u32::from(first)..=u32::from(last).min(127) {
                ascii |= 1 << c;
            }
            if !last.is_ascii() {
                beyond.push((first.max('\u{80}'), last));
            }
        }
        Self { ascii, ranges: beyond.into() }
    }

    pub(in crate::text) fn has(&self, c: char) -> bool {
        if c.is_ascii() {
            return self.ascii >> u32::from(c) & 1 == 1;
        }
        let after = self.ranges.partition_point(|&(first, _)| first <= c);
        after.checked_sub(1).and_then(|i| self.ranges.get(i)).is_some_and(|&(_, last)| c <= last)
    }
}
