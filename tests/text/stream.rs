//! The stream gives the same text as decoding everything at once, whatever the tokens.

use bise::text::{DecodeStream, Tokenizer};

use crate::support::{MISTRAL, Random, SMOLLM2, TALE, ids, json, string, tokenizer};

/// All parts, and what `pending` promised after each token.
fn run(mut stream: DecodeStream, ids: &[u32]) -> Vec<String> {
    let mut parts: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    let pending = stream.pending();
    let rest = stream.finish();
    assert!(pending.is_empty() || pending == rest, "{pending:?} is not {rest:?}");
    parts.push(rest);
    parts
}

fn assert_streams(tokenizer: &Tokenizer, ids: &[u32], note: &str) {
    let whole = tokenizer.decode(ids, true);
    assert_eq!(run(tokenizer.stream(), ids).concat(), whole, "{note} {ids:?}");
}

#[test]
fn goldens_stream() {
    let tale = tokenizer(TALE);
    for runs in json("tests/fixtures/golden.json")["models"].as_object().unwrap().values() {
        for case in runs.as_array().unwrap() {
            let parts = run(tale.stream(), &ids(&case["greedy_ids"]));
            assert_eq!(parts.concat(), string(&case["greedy_text"]));
            assert!(parts.iter().filter(|p| !p.is_empty()).count() > 20, "text comes piece by piece");
        }
    }
    let smollm2 = tokenizer(SMOLLM2);
    for case in json("tests/fixtures/vectors/smollm2.json")["cases"].as_array().unwrap() {
        for weights in ["checkpoint", "f8"] {
            let parts = run(smollm2.stream(), &ids(&case[weights]["greedy"]));
            assert_eq!(parts.concat(), string(&case[weights]["text"]));
        }
    }
    let mistral = tokenizer(MISTRAL);
    for case in json("tests/fixtures/vectors/mistral_text.json")["plain"].as_array().unwrap() {
        assert_eq!(run(mistral.stream(), &ids(&case["ids"])).concat(), string(&case["decoded"]));
    }
}

#[test]
fn no_replacement_character_that_a_later_token_completes() {
    let text = "a🦊é—東👩‍👩‍👧‍👦 ﷽ 𝔘\n🦊";
    for directory in [TALE, MISTRAL, SMOLLM2] {
        let tokenizer = tokenizer(directory);
        let ids = tokenizer.encode(text, false).unwrap();
        let parts = run(tokenizer.stream(), &ids);
        assert!(parts.iter().all(|p| !p.contains('\u{FFFD}')), "{directory} {parts:?}");
        assert_eq!(parts.concat(), text, "{directory}");
    }
}

/// Random ids, with many byte tokens: most sequences are not valid UTF-8.
#[test]
fn random_ids_stream_as_the_tokenizers_crate_decodes_them() {
    for directory in [TALE, MISTRAL, SMOLLM2] {
        let tokenizer = tokenizer(directory);
        let json = crate::support::bytes(&format!("{directory}/tokenizer.json"));
        let oracle = tokenizers::Tokenizer::from_bytes(json).unwrap();
        let characters = tokenizer.encode("é🦊東\n—", false).unwrap();
        let mut invalid = 0;
        for seed in 0..4000 {
            let mut random = Random(seed);
            let ids: Vec<u32> = (0..random.below(24))
                .flat_map(|_| match random.below(4) {
                    0 => vec![random.below(tokenizer.vocab_size() + 3) as u32],
                    // Byte tokens come first in all three vocabularies, after a few special ones.
                    1 => vec![random.below(270) as u32],
                    2 => vec![characters[random.below(characters.len())]],
                    _ => characters.clone(),
                })
                .collect();
            let expected = oracle.decode(&ids, true).unwrap();
            invalid += usize::from(expected.contains('\u{FFFD}'));
            assert_eq!(tokenizer.decode(&ids, true), expected, "{directory} seed {seed} {ids:?}");
            assert_streams(&tokenizer, &ids, directory);
        }
        assert!(invalid > 1000, "{directory}: only {invalid} sequences were invalid UTF-8");
    }
}

/// Continuing a prompt at any token gives the rest of the whole text.
#[test]
fn a_continuation_keeps_its_leading_space() {
    let text = "Hello world, naïve 🦊 fox";
    for directory in [TALE, MISTRAL, SMOLLM2] {
        let tokenizer = tokenizer(directory);
        let ids = tokenizer.encode(text, true).unwrap();
        for at in 0..=ids.len() {
            let (before, after) = ids.split_at(at);
            let continued = run(tokenizer.stream_after(before), after).concat();
            assert!(text.ends_with(&continued), "{directory} {at} {continued:?}");
            let prefix = tokenizer.decode(before, true);
            if !prefix.contains('\u{FFFD}') {
                assert_eq!(prefix + &continued, text, "{directory} {at}");
            }
        }
    }
    // Without context the first space belongs to SentencePiece, not to the text.
    let mistral = tokenizer(MISTRAL);
    let hello = [22557];
    assert_eq!(run(mistral.stream(), &hello).concat(), "Hello");
    assert_eq!(run(mistral.stream_after(&[1]), &hello).concat(), "Hello");
    assert_eq!(run(mistral.stream_after(&[1, 22557]), &hello).concat(), " Hello");
}

/// A newline is a byte token in Mistral's vocabulary: it is held back for one
/// token, but seen by `pending` at once.
#[test]
fn pending_shows_what_is_held_back() {
    let mistral = tokenizer(MISTRAL);
    let mut stream = mistral.stream();
    assert_eq!((stream.push(22557), stream.pending()), ("Hello".to_owned(), String::new()));
    assert_eq!((stream.push(13), stream.pending()), (String::new(), "\n".to_owned()));
    assert_eq!((stream.push(3 + 0xF0), stream.pending()), (String::new(), String::new()));
    assert_eq!(stream.finish(), "\u{FFFD}\u{FFFD}");
}

/// Where the next token begins does not depend on what is still held back.
#[test]
fn held_characters_are_those_that_are_whole() {
    let mistral = tokenizer(MISTRAL);
    let fox = [243, 162, 169, 141];
    let mut stream = mistral.stream();
    let mut after = |id: u32| (stream.push(id), stream.held_characters());
    let held = |text: &str| (String::new(), text.to_owned());
    assert_eq!(after(22557), ("Hello".to_owned(), String::new()));
    for id in [13, fox[0], fox[1], fox[2]] {
        assert_eq!(after(id), held("\n"));
    }
    assert_eq!(after(fox[3]), held("\n🦊"));
    assert_eq!(after(fox[0]), held("\n🦊"));
    assert_eq!(after(13), held(&"\u{FFFD}".repeat(7)), "no run of characters any more");
    assert_eq!(after(22557), ("\u{FFFD}".repeat(7) + " Hello", String::new()));
}

/// Twice the tokens take about twice the time: counted, not timed, by the parts that come out.
#[test]
fn long_runs_of_byte_tokens_are_decoded_once() {
    let mistral = tokenizer(MISTRAL);
    let fox = [243, 162, 169, 141];
    let mut ids: Vec<u32> = fox.iter().copied().cycle().take(40_000).collect();
    ids.push(22557);
    let parts = run(mistral.stream(), &ids);
    assert_eq!(parts.iter().filter(|p| !p.is_empty()).count(), 1);
    assert_eq!(parts.concat(), "🦊".repeat(10_000) + " Hello");
}
