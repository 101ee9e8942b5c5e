//! Rendered chats against transformers'.

use bise::text::{ChatTemplate, TemplateFiles, TextError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::{MISTRAL, SMOLLM2, TALE, bytes, ids, json as read, string, tokenizer};

/// Its fields keep their order, as a JSON object of serde_json's does not.
#[derive(Serialize, Deserialize)]
struct Message {
    role: String,
    content: String,
}

fn from_config(config: &Value) -> Result<Option<ChatTemplate>, TextError> {
    let config = serde_json::to_vec(config).unwrap();
    ChatTemplate::from_files(TemplateFiles { tokenizer_config: Some(&config), ..Default::default() })
}

fn template(source: &str) -> ChatTemplate {
    from_config(&json!({"chat_template": source})).unwrap().unwrap()
}

fn user(content: &str) -> Vec<Value> {
    vec![json!({"role": "user", "content": content})]
}

fn checkpoint(directory: &str) -> ChatTemplate {
    let config = bytes(&format!("{directory}/tokenizer_config.json"));
    ChatTemplate::from_files(TemplateFiles { tokenizer_config: Some(&config), ..Default::default() })
        .unwrap()
        .unwrap()
}

#[test]
fn mistral_chats_render_and_encode_as_transformers() {
    let template = checkpoint(MISTRAL);
    let tokenizer = tokenizer(MISTRAL);
    let golden = read("tests/fixtures/vectors/mistral_text.json");
    let chats = golden["chat"].as_array().unwrap();
    assert_eq!(chats.len(), 2);
    for chat in chats {
        let rendered = template.render(chat["messages"].as_array().unwrap(), true, 0).unwrap();
        assert_eq!(rendered, string(&chat["rendered"]));
        let encoded = tokenizer.encode_chat(&rendered).unwrap();
        assert_eq!(encoded, ids(&chat["ids"]));
        assert_eq!(encoded.iter().filter(|&&id| id == 1).count(), 1, "one <s>");
    }
}

#[test]
fn chat_template_jinja_wins_and_renders_smollm2() {
    let config = bytes(&format!("{SMOLLM2}/tokenizer_config.json"));
    let mut with_decoy: Value = serde_json::from_slice(&config).unwrap();
    with_decoy["chat_template"] = json!("decoy");
    let config = serde_json::to_vec(&with_decoy).unwrap();
    let jinja = bytes(&format!("{SMOLLM2}/chat_template.jinja"));
    let files =
        TemplateFiles { tokenizer_config: Some(&config), chat_template: Some(&jinja), ..Default::default() };
    let template = ChatTemplate::from_files(files).unwrap().unwrap();
    let golden = read("tests/fixtures/vectors/smollm2.json");
    let rendered = template.render(golden["messages"].as_array().unwrap(), true, 0).unwrap();
    assert_eq!(rendered, string(&golden["cases"][0]["prompt"]));
    assert_eq!(tokenizer(SMOLLM2).encode_chat(&rendered).unwrap(), ids(&golden["cases"][0]["ids"]));
}

#[test]
fn demo_models_render_their_golden_chat() {
    let template = checkpoint(TALE);
    let golden = read("tests/fixtures/golden.json");
    let chat = &golden["prompts"].as_array().unwrap().iter().find(|p| p["name"] == "chat").unwrap();
    let content = string(&chat["text"]).trim_start_matches("<s>[INST] ").trim_end_matches(" [/INST]");
    let message = Message { role: "user".to_owned(), content: content.to_owned() };
    let rendered = template.render(&[message], true, 0).unwrap();
    assert_eq!(rendered, format!("<s>[INST] {content} [/INST]"));
    assert_eq!(template.special_token("eos_token"), Some("</s>"));
    assert_eq!(template.special_token("pad_token"), None);
}

/// The vectors were made by `make_template_vectors.py`.
#[test]
fn templates_render_as_transformers_renders_them() {
    let vectors = read("tests/fixtures/vectors/templates.json");
    let now = vectors["now"].as_i64().unwrap();
    let (mut failures, mut raised) = (Vec::new(), 0);
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 36);
    for case in cases {
        let mut config = vectors["special_tokens"].clone();
        config["chat_template"] = case["template"].clone();
        let template = from_config(&config).unwrap().unwrap();
        let prompt = case["add_generation_prompt"].as_bool().unwrap();
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let got = template.render(&messages, prompt, now);
        let expected = match case["rendered"].as_str() {
            Some(text) => Ok(text.to_owned()),
            None => {
                raised += 1;
                Err(TextError::TemplateRaised { message: string(&case["raised"]).to_owned() })
            }
        };
        if got != expected {
            failures.push(format!("{}\n     got {got:?}\nexpected {expected:?}", case["name"]));
        }
    }
    assert!(raised >= 4);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn special_tokens_are_strings_or_objects_and_may_come_from_the_map() {
    let config = br#"{"chat_template": "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}",
        "bos_token": {"content": "<b>"}, "eos_token": "<e>", "pad_token": null}"#;
    let map = br#"{"bos_token": "<other>", "unk_token": {"content": "<u>"}}"#;
    let files =
        TemplateFiles { tokenizer_config: Some(config), special_tokens_map: Some(map), chat_template: None };
    let template = ChatTemplate::from_files(files).unwrap().unwrap();
    assert_eq!(template.render(&user(""), false, 0).unwrap(), "<b>|<e>||<u>");
}

#[test]
fn a_list_of_templates_has_a_default() {
    let list = json!([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]);
    let template = from_config(&json!({"chat_template": list})).unwrap().unwrap();
    assert_eq!(template.render(&user(""), false, 0).unwrap(), "d");

    let only = json!([{"name": "tool_use", "template": "t"}]);
    assert!(matches!(from_config(&json!({"chat_template": only})), Err(TextError::Template { .. })));
    assert!(from_config(&json!({"chat_template": null})).unwrap().is_none());
    assert!(ChatTemplate::from_files(TemplateFiles::default()).unwrap().is_none());
}

#[test]
fn the_template_s_own_refusal_is_told_from_errors() {
    let mistral = checkpoint(MISTRAL);
    let refused = mistral.render(&[json!({"role": "assistant", "content": "x"})], true, 0);
    let Err(TextError::TemplateRaised { message }) = refused else { panic!("{refused:?}") };
    assert!(message.starts_with("Conversation roles must alternate"), "{message}");

    let inside = "{% macro m() %}{{ raise_exception('deep') }}{% endmacro %}{{ m() }}";
    let raised = template(inside).render(&user(""), false, 0);
    assert_eq!(raised, Err(TextError::TemplateRaised { message: "deep".to_owned() }));

    let wrong = template("{{ messages[0].content.nothing.more }}").render(&user("x"), false, 0);
    assert!(matches!(wrong, Err(TextError::Template { .. })), "{wrong:?}");
    for source in ["{% if %}", "{{ x", "{% nonsense %}", "{% generation %}"] {
        let parsed = from_config(&json!({"chat_template": source}));
        assert!(matches!(parsed, Err(TextError::Template { .. })), "{source} {parsed:?}");
    }
}

#[test]
fn strftime_follows_the_calendar() {
    let now = |unix_s| template("{{ strftime_now('%F %T %a %j %y') }}").render(&user(""), false, unix_s);
    assert_eq!(now(0).unwrap(), "1970-01-01 00:00:00 Thu 001 70");
    assert_eq!(now(951_782_400).unwrap(), "2000-02-29 00:00:00 Tue 060 00");
    assert_eq!(now(1_735_689_599).unwrap(), "2024-12-31 23:59:59 Tue 366 24");
    assert_eq!(now(-1).unwrap(), "1969-12-31 23:59:59 Wed 365 69");
    assert_eq!(now(4_107_542_400).unwrap(), "2100-03-01 00:00:00 Mon 060 00");
    for extreme in [i64::MIN, i64::MAX] {
        assert!(now(extreme).is_ok());
    }
    let unknown = template("{{ strftime_now('%G') }}").render(&user(""), false, 0).unwrap_err();
    assert!(unknown.to_string().contains("%G"), "{unknown}");
}

#[test]
fn python_string_methods_that_the_library_lacks() {
    let source = "{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('x') }}{{ 'abc'.removesuffix('c') }}";
    assert_eq!(template(source).render(&user(""), false, 0).unwrap(), "bcabcab");
}

/// What fills a context of 32k tokens is within the limit on a template's work.
#[test]
fn long_conversations_render() {
    let vectors = read("tests/fixtures/vectors/templates.json");
    let sources: Vec<&str> =
        vectors["cases"].as_array().unwrap().iter().map(|c| string(&c["template"])).collect();
    let llama3_and_mistral_v3 = sources.iter().filter(|s| s.contains("message"));
    for (count, length) in [(1, 65_000), (399, 150), (99, 650)] {
        let messages: Vec<Value> = (0..count)
            .map(|i| json!({"role": (["user", "assistant"][i % 2]), "content": "é".repeat(length)}))
            .collect();
        for source in llama3_and_mistral_v3.clone().filter(|s| s.contains("eos_token") || s.contains("eot")) {
            let mut config = vectors["special_tokens"].clone();
            config["chat_template"] = json!(source);
            let rendered = from_config(&config).unwrap().unwrap().render(&messages, true, 0).unwrap();
            assert!(rendered.len() >= count * length * 2);
        }
        let rendered = checkpoint(MISTRAL).render(&messages, true, 0).unwrap();
        assert!(rendered.len() > count * length * 2);
    }
}
