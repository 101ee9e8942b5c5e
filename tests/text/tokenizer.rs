//! Ids, texts and bytes against the reference values.

use bise::text::Tokenizer;
use serde_json::{Value, json};

use crate::support::{MISTRAL, SMOLLM2, TALE, bytes, ids, json as read, small_tokenizer, string, tokenizer};

#[test]
fn mistral_encodes_and_decodes_as_sentencepiece() {
    let tokenizer = tokenizer(MISTRAL);
    let golden = read("tests/fixtures/vectors/mistral_text.json");
    let plain = golden["plain"].as_array().unwrap();
    assert_eq!(plain.len(), 14);
    for case in plain {
        let (text, expected) = (string(&case["text"]), ids(&case["ids"]));
        assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected, true), string(&case["decoded"]), "{text:?}");
        // With special tokens: one <s> in front, none of it in the text.
        let with_bos = [vec![1], expected].concat();
        assert_eq!(tokenizer.encode(text, true).unwrap(), with_bos, "{text:?}");
        assert_eq!(tokenizer.decode(&with_bos, true), string(&case["decoded"]), "{text:?}");
    }
    for case in golden["chat"].as_array().unwrap() {
        assert_eq!(tokenizer.encode_chat(string(&case["rendered"])).unwrap(), ids(&case["ids"]));
    }
}

#[test]
fn smollm2_encodes_and_decodes_as_transformers() {
    let tokenizer = tokenizer(SMOLLM2);
    let golden = read("tests/fixtures/vectors/smollm2.json");
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        assert_eq!(tokenizer.encode(string(&case["prompt"]), true).unwrap(), ids(&case["ids"]));
        for weights in ["checkpoint", "f8"] {
            let run = &case[weights];
            assert_eq!(
                tokenizer.decode(&ids(&run["greedy"]), true),
                string(&run["text"]),
                "{}",
                case["name"]
            );
        }
    }
}

#[test]
fn demo_models_encode_and_decode_as_transformers() {
    let tokenizer = tokenizer(TALE);
    let golden = read("tests/fixtures/golden.json");
    let mut texts = 0;
    for prompt in golden["prompts"].as_array().unwrap() {
        // The chat prompt is rendered already and carries its own <s>.
        let text = string(&prompt["text"]);
        let add_special = !text.starts_with("<s>");
        assert_eq!(tokenizer.encode(text, add_special).unwrap(), ids(&prompt["input_ids"]), "{text:?}");
    }
    for runs in golden["models"].as_object().unwrap().values() {
        for run in runs.as_array().unwrap() {
            texts += 1;
            assert_eq!(tokenizer.decode(&ids(&run["greedy_ids"]), true), string(&run["greedy_text"]));
        }
    }
    assert_eq!(texts, 12);
}

#[test]
fn held_out_texts_survive_the_round_trip() {
    for directory in [TALE, MISTRAL, SMOLLM2] {
        let tokenizer = tokenizer(directory);
        for file in ["tests/fixtures/heldout-tale.txt", "tests/fixtures/heldout-case.txt"] {
            let text = String::from_utf8(bytes(file)).unwrap();
            let encoded = tokenizer.encode(&text, true).unwrap();
            assert_eq!(tokenizer.decode(&encoded, true), text, "{directory} {file}");
        }
    }
}

#[test]
fn decode_equals_the_tokenizers_crate_on_every_token_and_special_setting() {
    for directory in [TALE, MISTRAL, SMOLLM2] {
        let tokenizer = tokenizer(directory);
        let oracle =
            tokenizers::Tokenizer::from_bytes(bytes(&format!("{directory}/tokenizer.json"))).unwrap();
        assert_eq!(tokenizer.vocab_size(), oracle.get_vocab_size(true));
        let size = u32::try_from(tokenizer.vocab_size()).unwrap();
        for id in 0..size + 2 {
            for skip in [true, false] {
                for sequence in [vec![id], vec![4000 % size, id, 5], vec![id, id, 3]] {
                    assert_eq!(
                        tokenizer.decode(&sequence, skip),
                        oracle.decode(&sequence, skip).unwrap(),
                        "{directory} {sequence:?} {skip}"
                    );
                }
            }
        }
    }
}

/// Every component that is read here, with every setting of it, encodes as in the crate.
#[test]
fn components_encode_as_in_the_tokenizers_crate() {
    let llama3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let mut pre_tokenizers = vec![Value::Null];
    for (a, b) in [(true, true), (true, false), (false, true), (false, false)] {
        pre_tokenizers
            .push(json!({"type": "ByteLevel", "add_prefix_space": a, "trim_offsets": true, "use_regex": b}));
        pre_tokenizers.push(json!({"type": "Digits", "individual_digits": a}));
        for scheme in ["first", "never", "always"] {
            pre_tokenizers
                .push(json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": a}));
        }
        for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
            for pattern in [json!({"Regex": llama3}), json!({"String": "a "})] {
                pre_tokenizers
                    .push(json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": a}));
            }
        }
    }
    pre_tokenizers.push(json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false}));
    pre_tokenizers.push(json!({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true}));
    let steps: Vec<Value> = pre_tokenizers.iter().skip(1).step_by(5).take(3).cloned().collect();
    pre_tokenizers.push(json!({"type": "Sequence", "pretokenizers": steps}));
    let mut normalizers = vec![
        Value::Null,
        json!({"type": "Prepend", "prepend": "▁"}),
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
        json!({"type": "Replace", "pattern": {"String": ". "}, "content": "xy"}),
    ];
    normalizers.extend(["NFC", "NFD", "NFKC", "NFKD"].map(|kind| json!({"type": kind})));
    normalizers.push(json!({"type": "Sequence", "normalizers": normalizers.get(1..).unwrap()}));

    let texts = [
        "",
        " ",
        "It's 12345 a a  a.\n\n Été ﬁ ① e\u{301}",
        " </s>x</s> y. z.",
        "▁a▁ 東京🦊\t\u{85}\u{feff}.",
    ];
    let mut compared = 0;
    for directory in [TALE, SMOLLM2] {
        let mut file = small_tokenizer(directory);
        for added in file["added_tokens"].as_array_mut().unwrap().iter_mut().skip(1) {
            added["normalized"] = json!(true);
        }
        for (index, pre_tokenizer) in pre_tokenizers.iter().enumerate() {
            file["pre_tokenizer"] = pre_tokenizer.clone();
            // A different normalizer each time, not all pairs.
            file["normalizer"] = normalizers[index % normalizers.len()].clone();
            let bytes = serde_json::to_vec(&file).unwrap();
            let (ours, oracle) =
                (Tokenizer::from_json(&bytes).unwrap(), tokenizers::Tokenizer::from_bytes(&bytes).unwrap());
            for text in texts {
                for add_special in [true, false] {
                    let expected = oracle.encode_fast(text, add_special).unwrap();
                    let got = ours.encode(text, add_special).unwrap();
                    assert_eq!(
                        got,
                        expected.get_ids(),
                        "{directory} {pre_tokenizer} {} {text:?}",
                        file["normalizer"]
                    );
                    compared += 1;
                }
            }
        }
    }
    assert_eq!(compared, 2 * 10 * pre_tokenizers.len());
}

/// Every setting of an added token cuts it out of a text as in the crate.
#[test]
fn added_tokens_are_found_as_in_the_tokenizers_crate() {
    let texts = [
        "x<t>y",
        " x  <t>\t\u{a0}y ",
        "<t><t>",
        "é<t> <t>_<t>.",
        "\u{301}<t>\u{200d}",
        " <t> <t> \n",
        "<T> <u>",
    ];
    let mut compared = 0;
    for settings in 0..32_u32 {
        let [single_word, lstrip, rstrip, normalized, special] =
            std::array::from_fn(|bit| settings & (1 << bit) != 0);
        let mut file = small_tokenizer(TALE);
        let id = file["model"]["vocab"].as_object().unwrap().len();
        let added = file["added_tokens"].as_array_mut().unwrap();
        for (offset, content) in ["<t>", "<u>", "▁<t>"].into_iter().enumerate() {
            added.push(
                json!({"id": id + offset, "content": content, "single_word": single_word, "lstrip": lstrip,
                "rstrip": rstrip, "normalized": normalized, "special": special}),
            );
        }
        let bytes = serde_json::to_vec(&file).unwrap();
        let (ours, oracle) =
            (Tokenizer::from_json(&bytes).unwrap(), tokenizers::Tokenizer::from_bytes(&bytes).unwrap());
        for text in texts {
            let (expected, got) = (oracle.encode_fast(text, true).unwrap(), ours.encode(text, true).unwrap());
            assert_eq!(got, expected.get_ids(), "{settings:05b} {text:?}");
            for skip in [true, false] {
                assert_eq!(
                    ours.decode(&got, skip),
                    oracle.decode(&got, skip).unwrap(),
                    "{settings:05b} {text:?}"
                );
            }
            compared += 1;
        }
    }
    assert_eq!(compared, 32 * texts.len());
}

#[test]
fn tokens_have_bytes_ids_and_kinds() {
    let mistral = tokenizer(MISTRAL);
    assert_eq!(mistral.token_bytes(13), Some(b"\n".to_vec()));
    assert_eq!(mistral.token_bytes(3 + 0xF0), Some(vec![0xF0]));
    assert_eq!(mistral.token_bytes(22557), Some(b" Hello".to_vec()));
    assert_eq!(mistral.token_bytes(28705), Some(b" ".to_vec()));
    assert_eq!(mistral.token_bytes(2), Some(b"</s>".to_vec()));
    assert_eq!(mistral.token_bytes(32000), None);
    assert_eq!((mistral.token_id("</s>"), mistral.token_id("no such token")), (Some(2), None));
    assert_eq!(mistral.vocab_size(), 32000);
    assert!(mistral.id_is_special(1) && !mistral.id_is_special(13) && !mistral.id_is_special(99_999));

    let smollm2 = tokenizer(SMOLLM2);
    assert_eq!(smollm2.token_bytes(198), Some(b"\n".to_vec()));
    assert_eq!(smollm2.token_bytes(2), Some(b"<|im_end|>".to_vec()));
    assert_eq!(smollm2.token_id("<|im_end|>"), Some(2));
    assert!(smollm2.id_is_special(2) && !smollm2.id_is_special(198));
}

/// The bytes of tokens, put together, are the text: for every text that has no special token.
#[test]
fn token_bytes_add_up_to_the_text() {
    let text = "Ünïcödé 🦊 東京\n\tdef f(x):  return x\u{0}\u{7f}\u{a0}\u{ad}";
    for (directory, prefix) in [(TALE, " "), (MISTRAL, " "), (SMOLLM2, "")] {
        let tokenizer = tokenizer(directory);
        let ids = tokenizer.encode(text, false).unwrap();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("{prefix}{text}"), "{directory}");
    }
}

/// The 256 characters of the byte-level alphabet are the 256 bytes, each once.
#[test]
fn the_byte_level_alphabet_is_a_bijection() {
    let smollm2 = tokenizer(SMOLLM2);
    let mut seen = [false; 256];
    for c in (0x21..0x144).filter_map(char::from_u32) {
        let Some(id) = smollm2.token_id(&c.to_string()) else { continue };
        let bytes = smollm2.token_bytes(id).unwrap();
        assert_eq!(bytes.len(), 1, "{c:?}");
        assert!(!std::mem::replace(&mut seen[usize::from(bytes[0])], true), "{c:?} {bytes:?}");
    }
    // The vocabulary lacks a few bytes that UTF-8 never has.
    assert!(seen.iter().filter(|&&s| s).count() > 200);
}
