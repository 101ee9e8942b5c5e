//! Files and templates that nobody wrote in good faith: always an error, never a panic.

use bise::text::{ChatTemplate, TemplateFiles, TextError, Tokenizer};
use serde_json::{Value, json};

use crate::support::{MISTRAL, Random, SMOLLM2, TALE, bytes, small_tokenizer};

/// A small tokenizer.json that loads.
fn small() -> Value {
    json!({
        "added_tokens": [
            {"id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": false, "special": true},
            {"id": 5, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false,
             "normalized": false, "special": false}
        ],
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "<0x0A>": 4},
                  "merges": [["a", "b"]]}
    })
}

fn load(value: &Value) -> Result<Tokenizer, TextError> {
    Tokenizer::from_json(serde_json::to_vec(value).unwrap())
}

fn with(path: &str, value: Value) -> Result<Tokenizer, TextError> {
    let mut file = small();
    *file.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
    load(&file)
}

#[test]
fn the_small_tokenizer_works() {
    let tokenizer = load(&small()).unwrap();
    assert_eq!(tokenizer.encode("ab<x>c", false).unwrap(), [3, 5, 0]);
    assert_eq!(tokenizer.decode(&[3, 4, 5, 0], true), "ab\n<x>");
}

#[test]
fn contradictions_are_named() {
    let bad: [(&str, Value, &str); 9] = [
        ("/model/merges", json!([["a", "zzzzzzzzzzzzzzzzzz"]]), "zzzz"),
        ("/model/merges", json!([["ab", "ab"]]), "abab"),
        ("/model/merges", json!(["a b c"]), "two pieces"),
        ("/model/unk_token", json!("nope"), "nope"),
        ("/model/vocab/b", json!(1), "shares its id"),
        ("/added_tokens/1/id", json!(77), "has id 77"),
        ("/added_tokens/1/content", json!(""), "empty"),
        ("/added_tokens/1/content", json!("<unk>"), "twice"),
        ("/decoder", json!({"kind": 1}), "no type"),
    ];
    for (path, value, needle) in bad {
        match with(path, value.clone()) {
            Err(TextError::BadTokenizer { reason }) => assert!(reason.contains(needle), "{path} {reason}"),
            other => panic!("{path} {value}: {other:?}"),
        }
    }
}

/// The `tokenizers` crate indexes with these, and panics.
#[test]
fn templates_of_special_tokens_that_contradict_themselves_are_named() {
    let special = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let processor = |single: Value| {
        let tokens = json!({"<x>": {"id": "<x>", "ids": [5], "tokens": ["<x>"]}});
        json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens})
    };
    let with_processor = |processor: Value| {
        let mut file = small();
        file["post_processor"] = processor;
        load(&file)
    };
    let good = processor(json!([special("<x>"), text("A"), special("<x>")]));
    let tokenizer = with_processor(good.clone()).unwrap();
    assert_eq!(tokenizer.encode("ab", true).unwrap(), [5, 3, 5]);
    assert_eq!(tokenizer.encode("ab", false).unwrap(), [3]);
    for (single, needle) in [
        (json!([special("<y>"), text("A")]), "no ids for \"<y>\""),
        (json!([text("B")]), "no sequence \"B\""),
        (json!([{}]), "no string \"id\""),
        (json!(null), "no list \"single\""),
    ] {
        match with_processor(processor(single)) {
            Err(TextError::BadTokenizer { reason }) => assert!(reason.contains(needle), "{reason}"),
            other => panic!("{needle}: {other:?}"),
        }
    }
    let twice = json!({"type": "Sequence", "processors": [good, good]});
    assert!(matches!(with_processor(twice), Err(TextError::UnsupportedTokenizer { .. })));
}

/// Lists that are longer than any vocabulary are refused, and lists of the wrong things.
#[test]
fn long_and_odd_lists_are_errors() {
    let entries =
        |count: usize, entry: &dyn Fn(usize) -> String| (0..count).map(entry).collect::<Vec<_>>().join(",");
    let file = |vocab: &str, merges: &str| {
        format!(
            r#"{{"decoder": {{"type": "Fuse"}}, "model": {{"type": "BPE", "vocab": {vocab}, "merges": {merges}}}}}"#
        )
    };
    let many = (1 << 19) + 1;
    let vocab = format!("{{{}}}", entries(many, &|id| format!(r#""{id}":{id}"#)));
    let merges = format!("[{}]", entries(many, &|_| r#"["1","2"]"#.to_owned()));
    for json in [
        file(&vocab, "[]"),
        file("{}", &merges),
        file("{}", r#"[["a"]]"#),
        file("{}", r#"[["a","b","c"]]"#),
        file("{}", "[7]"),
        file("7", "[]"),
    ] {
        let error = Tokenizer::from_json(&json).unwrap_err();
        assert!(matches!(error, TextError::BadJson { .. }), "{error}");
    }
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let mut prefixed = small();
    prefixed["model"]["continuing_subword_prefix"] = json!("##");
    let mut dropout = small();
    dropout["model"]["dropout"] = json!(0.1);
    let mut bert = small();
    bert["normalizer"] = json!({"type": "BertNormalizer"});
    let mut regex = small();
    regex["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "(a*)*b"}, "content": "x"});
    let mut empty = small();
    empty["normalizer"] = json!({"type": "Replace", "pattern": {"String": "x"}, "content": ""});
    let mut script = small();
    script["pre_tokenizer"] =
        json!({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "UnicodeScripts"}]});
    let mut roberta = small();
    roberta["post_processor"] = json!({"type": "RobertaProcessing"});
    let mut unigram = small();
    unigram["model"] = json!({"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0]]});
    let mut wordpiece = small();
    wordpiece["model"]["type"] = json!("WordPiece");
    let decoders = [
        json!(null),
        json!({"type": "CTC"}),
        json!({"type": "Strip", "content": " ", "start": 0, "stop": 3}),
        json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}),
        json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1}]}),
        json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"}),
    ];
    let files = [prefixed, dropout, bert, regex, empty, script, roberta, unigram, wordpiece];
    let decoders = decoders.into_iter().map(|d| {
        let mut file = small();
        file["decoder"] = d;
        file
    });
    for file in files.into_iter().chain(decoders) {
        let loaded = load(&file);
        assert!(matches!(loaded, Err(TextError::UnsupportedTokenizer { .. })), "{loaded:?} {file}");
    }
}

#[test]
fn bytes_that_are_no_tokenizer_are_errors() {
    for file in [&b""[..], b"{", b"null", b"[]", b"{}", b"\xff\xfe", b"{\"model\": {\"vocab\": {}}}"] {
        assert!(Tokenizer::from_json(file).is_err(), "{file:?}");
    }
    let deep = "[".repeat(100_000);
    assert!(Tokenizer::from_json(format!("{{\"normalizer\": {deep}").as_bytes()).is_err());
}

/// Swaps random values of real files for odd ones; what still loads must encode and decode.
#[test]
fn mutated_tokenizers_never_panic() {
    let odd = [
        json!(null),
        json!(0),
        json!(-1),
        json!(4_294_967_295u64),
        json!("▁"),
        json!(""),
        json!([]),
        json!({}),
    ];
    let (mut loaded, mut refused) = (0, 0);
    for directory in [TALE, MISTRAL, SMOLLM2] {
        let file = small_tokenizer(directory);
        let loaded_before = loaded;
        for seed in 0..400 {
            let mut random = Random(seed);
            let mut mutated = file.clone();
            for _ in 0..1 + random.below(2) {
                let mut at = &mut mutated;
                // Walk down a random path and put something odd at its end.
                loop {
                    let stop = random.below(5) == 0;
                    let children = match at {
                        Value::Object(map) => map.len(),
                        Value::Array(list) => list.len(),
                        _ => 0,
                    };
                    if stop || children == 0 {
                        break;
                    }
                    let child = random.below(children);
                    at = match at {
                        Value::Object(map) => map.values_mut().nth(child).unwrap(),
                        Value::Array(list) => &mut list[child],
                        _ => break,
                    };
                }
                *at = odd[random.below(odd.len())].clone();
            }
            match load(&mutated) {
                Err(_) => refused += 1,
                Ok(tokenizer) => {
                    loaded += 1;
                    let _ids = tokenizer.encode(" Ünïcödé 🦊 <s></s> aab\n\n", true);
                    let ids: Vec<u32> = (0..700).collect();
                    let text = tokenizer.decode(&ids, seed % 2 == 0);
                    let mut stream = tokenizer.stream_after(&[5]);
                    let parts: String = ids.iter().map(|&id| stream.push(id)).collect();
                    assert!(!text.is_empty() && !(parts + &stream.finish()).is_empty());
                }
            }
        }
        assert!(loaded > loaded_before + 50, "{directory}: {} loaded", loaded - loaded_before);
    }
    assert!(refused > 50, "{loaded} loaded, {refused} refused");
}

#[test]
fn truncated_files_are_errors() {
    let file = bytes(&format!("{TALE}/tokenizer.json"));
    for at in (0..file.len()).step_by(file.len() / 50) {
        assert!(Tokenizer::from_json(&file[..at]).is_err(), "{at}");
    }
}

fn render(source: &str) -> Result<String, TextError> {
    let files = TemplateFiles { chat_template: Some(source.as_bytes()), ..Default::default() };
    ChatTemplate::from_files(files)?.unwrap().render(&[json!({"role": "user", "content": "Hi"})], true, 0)
}

#[test]
fn templates_without_an_end_are_stopped() {
    let forever = [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(64) %}{% set ns.x = ns.x | chain(ns.x) %}{% endfor %}",
        "{% macro f(x, n) %}{% if n %}{{ f(x + x, n - 1) }}{% endif %}{% endmacro %}{{ f(messages, 48) }}",
        "{% block b %}{% set ns = namespace(x=messages * 3) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{% endblock %}",
        "{% set ns = namespace(x=(1, 2)) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x={}.items()) %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x + [1] %}{% endfor %}",
        "{{ ('a' * 99999999) | length }}",
        "{{ range(99999999) | list | length }}",
    ];
    for source in forever {
        let rendered = render(source);
        let stopped = matches!(rendered, Err(TextError::TemplateTooLong { .. } | TextError::Template { .. }));
        assert!(stopped, "{source} gave {} bytes", rendered.unwrap().len());
    }
}

/// The `+` that is checked is the language's own otherwise.
#[test]
fn sums_are_those_of_the_language() {
    for (source, expected) in [
        ("{{ 1 + 2 }} {{ 1.5 + 2 }} {{ 'a' + 'b' }} {{ (1 + 2) * 3 - 4 }}", "3 3.5 ab 5"),
        ("{{ messages[0].role + ': ' + messages[0].content }}", "user: Hi"),
        ("{{ [1] + [2, 3] }} {{ ([1] + [2])[1] }} {{ (messages + messages) | length }}", "[1, 2, 3] 2 2"),
        (
            "{% set ns = namespace(x=[]) %}{% for i in range(300) %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x | length }} {{ ns.x[299] }}",
            "300 299",
        ),
        ("{% for x in [1, 2, 3] if x > 1 %}{{ loop.index + x }},{% endfor %}", "3,5,"),
        ("{% macro m(x) %}{{ x + 1 }}{% endmacro %}{{ m(1) }}{% block b %}{{ 2 + 2 }}{% endblock %}", "24"),
    ] {
        assert_eq!(render(source).unwrap(), expected, "{source}");
    }
    for wrong in ["{{ 'a' + 1 }}", "{{ [1] + 1 }}", "{{ none + 'x' }}"] {
        let error = render(wrong).unwrap_err();
        assert!(matches!(&error, TextError::Template { reason } if reason.contains('+')), "{wrong}: {error}");
    }
}

#[test]
fn deep_templates_are_errors() {
    let recursion = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    assert!(render(recursion).is_err());
    let nested = "{% set ns = namespace(x=[]) %}{% for i in range(500) %}{% set ns.x = [ns.x] %}{% endfor %}";
    let error = render(&format!("{nested}{{{{ ns.x | tojson }}}}")).unwrap_err();
    assert!(error.to_string().contains("nested"), "{error}");
    assert!(render(&"(".repeat(100_000)).is_ok(), "plain text");
    for deep in [
        "{{ ".to_owned() + &"(".repeat(10_000),
        "{{ ".to_owned() + &"[".repeat(10_000),
        "{% if 1 %}".repeat(5000),
    ] {
        assert!(render(&deep).is_err());
    }
}

#[test]
fn files_of_the_wrong_kind_are_errors() {
    let config = |file: &[u8]| {
        ChatTemplate::from_files(TemplateFiles { tokenizer_config: Some(file), ..Default::default() })
    };
    assert!(matches!(config(b"{"), Err(TextError::BadJson { file: "tokenizer_config.json", .. })));
    assert!(matches!(config(b"[]"), Err(TextError::BadJson { .. })));
    assert!(matches!(config(b"{\"chat_template\": 3}"), Err(TextError::Template { .. })));
    let not_utf8 = TemplateFiles { chat_template: Some(b"\xff"), ..Default::default() };
    assert!(matches!(ChatTemplate::from_files(not_utf8), Err(TextError::Template { .. })));
}

/// Dropping a value nested this deeply needs a stack frame per level: a browser's stack is about 1 MiB.
#[test]
fn nesting_that_a_template_builds_fits_the_stack() {
    for step in ["[ns.x]", "{'a': ns.x}", "[ns.x] + [1]"] {
        let source =
            "{% set ns = namespace(x=[]) %}{% for j in range(9) %}{% for i in range(9999) %}{% set ns.x = STEP %}{% endfor %}{% endfor %}"
                .replace("STEP", step);
        let small_stack = std::thread::Builder::new().stack_size(1 << 20);
        let rendered = small_stack.spawn(move || render(&source)).unwrap().join().unwrap();
        assert!(matches!(rendered, Err(TextError::TemplateTooLong { .. })), "{step} {rendered:?}");
    }
}
