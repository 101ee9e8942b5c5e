//! The matcher against that of fancy-regex, which shares nothing with it but the parser.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokenizers::pattern::Pattern as _;

use super::Regex;

/// What cuts the words of GPT-2, Llama 3, Mistral's Tekken, GPT-4 (with its possessive
/// quantifiers), Qwen 2, DeepSeek, Falcon, Bloom, StarCoder and others.
const WORDS: [&str; 14] = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "[一-龥\u{3040}-ゟ゠-ヿ]+",
    r"[0-9][0-9][0-9]",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"[\p{Han}]+|\p{Script=Greek}+|[^[:alpha:]]",
    r"\w+|[^\w\s]+",
    r"(?<=[a-z])(?=[A-Z])|(?<!\d\d)\d",
    r"(?m)^\s+|\s+$|(?s:.)\z",
];

/// Everything else that the matcher does.
const SMALL: [&str; 22] = [
    "",
    "a*",
    "a*?",
    "a+?b",
    "a{2,3}?",
    "(?:ab)*",
    "(?:ab){1,2}c",
    "(?:a|ab)(?:c|bcd)",
    "(?>a|ab)c",
    "(?:a?)*b",
    "(?:|a)+",
    "(?:a*)+?b",
    r"\bab?\B",
    "a(?!b).",
    r"(?<=a|bb)b",
    r"(?<!a*b)a",
    "(?i)Ab",
    "(?i)[k-s]",
    r"\Aa|b\z",
    r"a\Z",
    r"\h+",
    r"(?m)^a$",
];

fn parts(regex: &Regex, text: &str) -> Vec<((usize, usize), bool)> {
    regex.find_matches(text).unwrap()
}

/// The same through fancy-regex, as the `tokenizers` crate asks it.
fn expected(regex: &fancy_regex::Regex, text: &str) -> Vec<((usize, usize), bool)> {
    let (mut parts, mut done) = (Vec::new(), 0);
    for found in regex.find_iter(text) {
        let found = found.unwrap();
        if done != found.start() {
            parts.push(((done, found.start()), false));
        }
        parts.push(((found.start(), found.end()), true));
        done = found.end();
    }
    if done != text.len() || text.is_empty() {
        parts.push(((done, text.len()), false));
    }
    parts
}

fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ab]{1,4}",
        "[a-zA-Z]{1,6}",
        "[0-9]{1,5}",
        r"[ \t]{1,3}",
        "(\r\n|\n|\r){1,2}",
        "'(s|LL|Re|d|x)",
        r"[!-/:-@\[-`{-~]{1,3}",
        r"[\p{L}\p{M}\p{N}\p{P}\p{Z}]{1,3}",
        "[ſKßẞσςıİéÉǅǆ漢字かなΑλ٣②\u{85}\u{a0}\u{200d}\u{2028}\u{feff}\u{301}]{1,4}",
        "\\PC{1,2}",
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Small patterns, nested at random.
fn patterns() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("ab".to_owned()),
        Just(".".to_owned()),
        Just("[^a]".to_owned()),
        Just(r"\s".to_owned()),
        Just(r"\b".to_owned()),
        Just("(?!b)".to_owned()),
        Just("(?<=a)".to_owned()),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|all| all.concat()),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(|all| format!("(?:{})", all.join("|"))),
            (inner.clone(), prop_oneof![Just("?"), Just("??"), Just("{0,2}"), Just("{2}"), Just("{1,2}?")])
                .prop_map(|(one, count)| format!("(?:{one}){count}")),
            // Rounds that match something: what an empty one does, fancy-regex's two matchers see differently.
            (inner.clone(), prop_oneof![Just("*"), Just("+"), Just("*?"), Just("+?")])
                .prop_map(|(one, count)| format!("(?:{one}[ab]){count}")),
            inner.clone().prop_map(|one| format!("(?>{one})")),
            inner.clone().prop_map(|one| format!("(?={one})")),
            inner.prop_map(|one| format!("(?!{one})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn nested_patterns_match_as_in_fancy_regex(
        pattern in patterns(),
        texts in proptest::collection::vec("[ab \n]{0,10}", 8),
    ) {
        // What may not be repeated, the parser decides; it is the same for both.
        let oracle = fancy_regex::Regex::new(&pattern);
        prop_assume!(oracle.is_ok());
        let (ours, oracle) = (Regex::new(&pattern).unwrap(), oracle.unwrap());
        for text in texts {
            prop_assert_eq!(parts(&ours, &text), expected(&oracle, &text), "{:?}", text);
        }
    }
}

#[test]
fn known_patterns_match_as_in_fancy_regex() {
    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
    for pattern in WORDS.iter().chain(&SMALL) {
        let (ours, oracle) = (Regex::new(pattern).unwrap(), fancy_regex::Regex::new(pattern).unwrap());
        let compared = runner.run(&texts(), |text| {
            prop_assert_eq!(parts(&ours, &text), expected(&oracle, &text), "{:?}", pattern);
            Ok(())
        });
        compared.unwrap();
    }
}

#[test]
fn long_runs_take_few_steps() {
    let text = [" ".repeat(100_000), "a".repeat(100_000), "A".repeat(100_000), "7".repeat(100_000)].concat();
    for pattern in WORDS.iter().take(6) {
        assert!(parts(&Regex::new(pattern).unwrap(), &text).len() > 2, "{pattern}");
    }
}

#[test]
fn a_pattern_without_end_is_an_error() {
    let regex = Regex::new("(?:a|a|aa)*b").unwrap();
    let error = (&regex).find_matches(&"a".repeat(200)).unwrap_err();
    assert!(error.to_string().contains("too many steps"), "{error}");
}

#[test]
fn patterns_that_are_wrong_or_not_supported_are_errors() {
    for pattern in [
        "(",
        "[",
        "[b-a]",
        "a{3,2}",
        "*",
        r"\p{Nonsense}",
        r"(a)\1",
        r"a\Kb",
        r"\Ga",
        "(?<n>a)\\g<n>",
        "(a)(?(1)b|c)",
        "(?:(?:(?:a{1000}){1000}){1000}){1000}",
        r"\",
    ] {
        let error = Regex::new(pattern).map(drop).unwrap_err();
        assert!(error.starts_with("regular expression"), "{error}");
    }
    let deep = "(?:".repeat(10_000) + "a" + &")".repeat(10_000);
    assert!(Regex::new(&deep).is_err());
}
