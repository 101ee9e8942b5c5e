//! Whose tokenizer and side files the result gets, and when a union of tokenizers is one of them.

use std::collections::BTreeMap;

use bise::checkpoint::source::MemorySource;
use bise::merge::{MergeError, MergeOptions};
use serde_json::{Value, json};

use super::checkpoints::{Files, Maker};
use super::support::{files, plan};

const SLERP: &str =
    "models: [{model: a}, {model: b}]\nmerge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\n";

/// A file's name and text.
type Named<'a> = (&'a str, &'a str);

fn model(seed: u64, side_files: &[Named]) -> Files {
    let mut files = Maker { seed, ..Maker::default() }.files();
    files.extend(side_files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())));
    files
}

fn merge(text: &str, a: &[Named], b: &[Named]) -> Result<Files, MergeError> {
    let models: BTreeMap<&str, Files> = [("a", model(1, a)), ("b", model(2, b))].into();
    // Pieces that end anywhere.
    let open = |name: &str| MemorySource { piece_bytes: 7, ..MemorySource::new(models[name].clone()) };
    Ok(files(&plan(text, MergeOptions::default(), open)?))
}

#[track_caller]
fn refused(a: &[Named], b: &[Named], words: &str) {
    for key in ["tokenizer_source: union", "tokenizer: {source: union}"] {
        // From either side.
        for (one, other) in [(a, b), (b, a)] {
            match merge(&format!("{SLERP}{key}\n"), one, other) {
                Err(MergeError::Recipe { place, message }) => {
                    assert_eq!(place, "line 1");
                    let words = ["tokenizers of a and b", words, "tokenizer_source: base"];
                    words.iter().for_each(|word| assert!(message.contains(word), "{message} lacks {word}"));
                }
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("accepted"),
            }
        }
    }
}

#[track_caller]
fn united(a: &[Named], b: &[Named]) {
    for (one, other) in [(a, b), (b, a)] {
        let result = merge(&format!("{SLERP}tokenizer_source: union\n"), one, other).unwrap();
        for (name, text) in one {
            assert_eq!(String::from_utf8_lossy(&result[*name]), *text, "the base's {name}");
        }
    }
}

#[test]
fn a_union_of_the_same_is_the_base() {
    let one = json!({"model": {"vocab": {"a ": 0, "\\\" b": 1}, "merges": []}, "added_tokens": [{"id": 2, "content": "<x>"}]});
    let (short, long) = (one.to_string(), format!("{one:#}\n"));
    united(&[("tokenizer.json", &short)], &[("tokenizer.json", &short)]);
    // Written otherwise, but the same.
    united(&[("tokenizer.json", &short)], &[("tokenizer.json", &long)]);
    // What tokenizer.json has in it need not lie beside it as well.
    united(
        &[("tokenizer.json", &short), ("tokenizer.model", "x"), ("special_tokens_map.json", "{}")],
        &[("tokenizer.json", &long)],
    );
    // The older form alone.
    let model = [("tokenizer.model", "\n \u{1}a"), ("added_tokens.json", "{\"<x>\": 2}")];
    united(&model, &model);
    let config =
        json!({"added_tokens_decoder": {"2": {"content": "<x>"}}, "model_max_length": 5}).to_string();
    let other = json!({"model_max_length": 9, "added_tokens_decoder": {"2": {"content": "<x>"}}}).to_string();
    let with = |config| [("tokenizer.model", "m"), ("tokenizer_config.json", config)];
    united(&with(&config), &with(&other));
    // None at all.
    united(&[], &[]);
}

#[test]
fn a_union_of_others_is_refused() {
    let json = |vocab: Value| json!({"model": {"vocab": vocab}}).to_string();
    let (one, other) = (json(json!({"a": 0})), json(json!({"b": 0})));
    refused(&[("tokenizer.json", &one)], &[("tokenizer.json", &other)], "tokenizer.json differ");
    // White space in a token is none between tokens, behind whatever escapes.
    for (one, other) in [
        (json!({"a b": 0}), json!({"ab": 0})),
        (json!({"\\": 0, " ": 1}), json!({"\\": 0, "": 1})),
        (json!({"\"": " "}), json!({"\"": ""})),
    ] {
        refused(
            &[("tokenizer.json", &json(one))],
            &[("tokenizer.json", &json(other))],
            "tokenizer.json differ",
        );
    }
    // One that is the other's beginning.
    let longer = format!("{one} 1");
    refused(&[("tokenizer.json", &one)], &[("tokenizer.json", &longer)], "tokenizer.json differ");
    refused(&[("tokenizer.json", &one)], &[], "has tokenizer.json, ");
    // Two forms cannot be compared.
    refused(&[("tokenizer.json", &one)], &[("tokenizer.model", "m")], "has tokenizer.json, ");
    refused(&[("tokenizer.model", "m")], &[("tokenizer.model", "n")], "tokenizer.model differ");
    // A byte of a binary file counts, white space or not.
    refused(&[("tokenizer.model", "m\n")], &[("tokenizer.model", "m")], "tokenizer.model differ");
    let with = |file, text| [("tokenizer.model", "m"), (file, text)];
    refused(&with("added_tokens.json", "{}"), &[("tokenizer.model", "m")], "has added_tokens.json, ");
    let (one, other) = (with("added_tokens.json", "{\"<x>\": 2}"), with("added_tokens.json", "{\"<y>\": 2}"));
    refused(&one, &other, "added_tokens.json differ");
    let specials = |text| [("tokenizer.json", "{}"), ("special_tokens_map.json", text)];
    refused(
        &specials("{\"eos_token\": \"</s>\"}"),
        &specials("{\"eos_token\": \"<e>\"}"),
        "special_tokens_map.json",
    );
    let config = json!({"added_tokens_decoder": {"2": {"content": "<x>"}}}).to_string();
    let (one, other) = (with("tokenizer_config.json", &config), with("tokenizer_config.json", "{}"));
    refused(&one, &other, "added_tokens_decoder");
    refused(&with("merges.txt", "a b\n"), &with("merges.txt", "a  b\n"), "merges.txt differ");
}

#[test]
fn side_files_are_the_tokenizers_but_for_generation_config() {
    let of = |model: &'static str| {
        [("tokenizer.json", model), ("tokenizer_config.json", "{}"), ("generation_config.json", model)]
    };
    for (key, tokenizer) in [
        ("", "a"),
        ("tokenizer_source: base", "a"),
        ("tokenizer_source: b", "b"),
        ("tokenizer: {source: b}", "b"),
    ] {
        let result = merge(&format!("{SLERP}{key}\n"), &of("a"), &of("b")).unwrap();
        assert_eq!(result["tokenizer.json"], tokenizer.as_bytes(), "{key}");
        // It belongs to config.json, not to the tokenizer.
        assert_eq!(result["generation_config.json"], b"a", "{key}");
        assert_eq!(result["tokenizer_config.json"], b"{}", "{key}");
    }
}

#[test]
fn chat_templates_are_those_that_the_recipe_says() {
    let config = |template: &str| json!({"chat_template": template, "x": 1}).to_string();
    let (of_a, of_b) = (config("{{ a }}"), config("{{ b }}"));
    let of = |config| [("tokenizer.json", "{}"), ("tokenizer_config.json", config)];
    // None said: files as they are.
    let result = merge(SLERP, &of(&of_a), &of(&of_b)).unwrap();
    assert_eq!(result["tokenizer_config.json"], of_a.as_bytes());
    assert!(!result.contains_key("chat_template.jinja"));
    // A text: in a file of its own, and no other beside it.
    let result = merge(&format!("{SLERP}chat_template: '{{{{ c }}}}'\n"), &of(&of_a), &of(&of_b)).unwrap();
    assert_eq!(result["chat_template.jinja"], b"{{ c }}");
    let left: Value = serde_json::from_slice(&result["tokenizer_config.json"]).unwrap();
    assert_eq!(left, json!({"x": 1}));
    // The one that most have: here two of three, one of them in the newer place.
    let text = "models: [{model: a}, {model: b}, {model: c}]\nmerge_method: linear\nparameters: {weight: 1}\n\
                base_model: a\nchat_template: auto\n";
    let models: BTreeMap<&str, Files> = [
        ("a", model(1, &of(&of_a))),
        ("b", model(2, &of(&of_b))),
        ("c", model(3, &[("tokenizer.json", "{}"), ("chat_template.jinja", "{{ b }}")])),
    ]
    .into();
    let open = |name: &str| MemorySource::new(models[name].clone());
    let result = files(&plan(text, MergeOptions::default(), open).unwrap());
    assert_eq!(result["chat_template.jinja"], b"{{ b }}");
}
