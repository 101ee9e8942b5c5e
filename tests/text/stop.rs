//! Stop strings against a naive search over the whole text, for every way to cut it.

use bise::text::{StopMatcher, TextError};

use crate::support::Random;

/// The text before the stop string that is complete first (the longest of those), if any.
fn naive<'a>(text: &'a str, stops: &[String]) -> Option<&'a str> {
    let ends = stops.iter().flat_map(|s| text.match_indices(s.as_str()).map(|(at, m)| (at + m.len(), at)));
    ends.min().map(|(_, start)| &text[..start])
}

fn run(stops: &[String], parts: &[&str]) -> (String, bool) {
    let mut matcher = StopMatcher::new(stops).unwrap();
    let mut text = String::new();
    for part in parts {
        let would = matcher.would_stop(part);
        let outcome = matcher.push(part);
        assert_eq!(would, outcome.stopped);
        text.push_str(&outcome.text);
        if outcome.stopped {
            return (text, true);
        }
    }
    text.push_str(&matcher.finish());
    (text, false)
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&s| s.to_owned()).collect()
}

#[test]
fn every_cut_of_every_small_text_agrees_with_the_naive_search() {
    let sets: Vec<Vec<String>> = [
        &["aab"][..],
        &["aba", "bab"],
        &["aaaa"],
        &["abab", "b"],
        &["aabaa", "aaba"],
        &["abcd", "bc"],
        &["é"],
        &["aé", "éa"],
        &[],
    ]
    .iter()
    .map(|set| strings(set))
    .collect();
    let alphabet = ['a', 'b', 'é', 'c'];
    let (mut stopped, mut checked) = (0, 0);
    for length in 0..=6usize {
        for code in 0..alphabet.len().pow(u32::try_from(length).unwrap()) {
            let text: String =
                (0..length).map(|i| alphabet[code / alphabet.len().pow(i as u32) % alphabet.len()]).collect();
            let borders: Vec<usize> = text.char_indices().map(|(i, _)| i).skip(1).collect();
            for stops in &sets {
                let expected = naive(&text, stops);
                // Every subset of the inner borders is a way to cut the text.
                for cut in 0..1usize << borders.len() {
                    let mut parts = Vec::new();
                    let mut from = 0;
                    for (i, &at) in borders.iter().enumerate() {
                        if cut >> i & 1 == 1 {
                            parts.push(&text[from..at]);
                            from = at;
                        }
                    }
                    parts.push(&text[from..]);
                    let wanted = (expected.unwrap_or(&text).to_owned(), expected.is_some());
                    assert_eq!(run(stops, &parts), wanted, "{parts:?} {stops:?}");
                    checked += 1;
                    stopped += usize::from(expected.is_some());
                }
            }
        }
    }
    assert!(stopped > 10_000 && checked > 2 * stopped, "{stopped} of {checked}");
}

#[test]
fn random_long_texts_agree_with_the_naive_search() {
    for seed in 0..2000 {
        let mut random = Random(seed);
        let word = |random: &mut Random, n: usize| -> String {
            (0..n).map(|_| ['a', 'b', '\n', '東'][random.below(4)]).collect()
        };
        let stops: Vec<String> = (0..random.below(4))
            .map(|_| {
                let n = 1 + random.below(6);
                word(&mut random, n)
            })
            .collect();
        let n = random.below(60);
        let text = word(&mut random, n);
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let at =
                rest.char_indices().map(|(i, c)| i + c.len_utf8()).nth(random.below(5)).unwrap_or(rest.len());
            parts.push(&rest[..at]);
            rest = &rest[at..];
        }
        let expected = naive(&text, &stops);
        let wanted = (expected.unwrap_or(&text).to_owned(), expected.is_some());
        assert_eq!(run(&stops, &parts), wanted, "seed {seed} {parts:?} {stops:?}");
    }
}

#[test]
fn holds_back_no_more_than_it_must() {
    let mut matcher = StopMatcher::new(&strings(&["</end>", "STOP"])).unwrap();
    assert_eq!(matcher.push("hello <").text, "hello ");
    assert_eq!(matcher.push("/en").text, "");
    assert_eq!(matcher.push("t> S").text, "</ent> ");
    assert_eq!(matcher.push("TOP it").text, "");
    assert!(matcher.push("more").stopped);
    assert_eq!(matcher.finish(), "");
}

#[test]
fn an_empty_stop_string_is_refused() {
    assert_eq!(StopMatcher::new(&strings(&["a", ""])).unwrap_err(), TextError::EmptyStop);
}
