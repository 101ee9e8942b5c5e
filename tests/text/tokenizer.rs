//! Ids, texts and bytes against the reference values.

use crate::support::{MISTRAL, SMOLLM2, TALE, bytes, ids, json, string, tokenizer};

#[test]
fn mistral_encodes_and_decodes_as_sentencepiece() {
    let tokenizer = tokenizer(MISTRAL);
    let golden = json("tests/fixtures/vectors/mistral_text.json");
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
    let golden = json("tests/fixtures/vectors/smollm2.json");
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
    let golden = json("tests/fixtures/golden.json");
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
