//! What a request may ask for, and what it gets when it asks for the wrong thing: the same on the GPU and on the CPU.
//! Both binaries have a `tale()`.

use std::cell::Cell;

use bise::engine::{Delta, EngineError, FinishReason, Message, Prompt, Request};
use pollster::block_on;

use crate::support::{greedy, run};
use crate::tale;

pub const OPENING: &str = "The old man opened the door and";

/// One request of plain text with everything else as the JSON says.
pub fn request(options: serde_json::Value) -> Request {
    let mut object = serde_json::json!({ "prompt": { "text": OPENING }, "max_tokens": 24 });
    object.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
    serde_json::from_value(object).unwrap()
}

#[test]
fn sampling_is_reproducible_and_options_take_effect() {
    let mut engine = tale();
    let mut text = |options| run(&mut engine, &request(options)).unwrap().text;
    let seeded = |seed: u64| serde_json::json!({ "temperature": 1.0, "seed": seed });
    let first = text(seeded(7));
    assert_eq!(first, text(seeded(7)));
    assert_ne!(first, text(seeded(8)));
    let greedy = text(serde_json::json!({ "temperature": 0.0 }));
    assert_eq!(greedy, text(serde_json::json!({ "temperature": 1.0, "top_k": 1, "seed": 3 })));
    assert_eq!(greedy, text(serde_json::json!({ "temperature": 1.0, "top_p": 1e-6, "seed": 3 })));
    assert_eq!(greedy, text(serde_json::json!({ "temperature": 1.0, "min_p": 1.0, "seed": 3 })));
    // Token 533 is what greedy begins with.
    assert_ne!(greedy, text(serde_json::json!({ "temperature": 0.0, "logit_bias": { "533": -100.0 } })));
    for penalty in [
        serde_json::json!({ "temperature": 0.0, "max_tokens": 48, "repetition_penalty": 1.5 }),
        serde_json::json!({ "temperature": 0.0, "max_tokens": 48, "frequency_penalty": 2.0 }),
        serde_json::json!({ "temperature": 0.0, "max_tokens": 48, "presence_penalty": 2.0 }),
    ] {
        let plain = text(serde_json::json!({ "temperature": 0.0, "max_tokens": 48 }));
        assert_ne!(plain, text(penalty));
    }
}

#[test]
fn stop_strings_end_the_text_across_tokens() {
    let mut engine = tale();
    let whole = run(&mut engine, &request(serde_json::json!({ "temperature": 0.0 }))).unwrap();
    assert!(whole.text.contains("the door.\n\"Where"), "{}", whole.text);
    let stop = serde_json::json!({ "temperature": 0.0, "stop": ["r.\n\"Wh", "never"] });
    let (mut streamed, mut prompt_tokens) = (String::new(), Vec::new());
    let mut on_delta = |delta: &Delta| {
        streamed.push_str(&delta.text);
        prompt_tokens.push(delta.prompt_tokens as usize);
    };
    let stopped = block_on(engine.generate(&request(stop), &mut on_delta, &|| false)).unwrap();
    assert_eq!(stopped.text, "went to the doo");
    assert_eq!(streamed, stopped.text);
    assert_eq!(prompt_tokens, vec![stopped.prompt_ids.len(); stopped.ids.len()]);
    assert_eq!(stopped.finish_reason, FinishReason::Stop);
    assert!(stopped.ids.len() < whole.ids.len());
}

/// Text that is held back, for a stop string that may come or for good, moves no token's place.
#[test]
fn logprobs_tell_where_each_token_begins() {
    let mut engine = tale();
    let mut offsets = |options: serde_json::Value| {
        let options = [&options, &serde_json::json!({ "temperature": 0.0, "logprobs": 0, "max_tokens": 8 })];
        let all = options.iter().flat_map(|object| object.as_object().unwrap().clone()).collect();
        let output = run(&mut engine, &request(serde_json::Value::Object(all))).unwrap();
        let logprobs = output.logprobs.unwrap();
        let tokens: Vec<String> = logprobs.iter().map(|each| each.chosen.token.clone()).collect();
        (output.text, tokens, logprobs.iter().map(|each| each.text_offset).collect::<Vec<_>>())
    };
    let (text, tokens, plain) = offsets(serde_json::json!({}));
    assert_eq!((text.as_str(), plain[0]), ("went to the door.\n\"W", 0));
    let begins: Vec<&str> = plain.iter().map(|&at| text.get(at..).unwrap()).collect();
    for (token, rest) in tokens.iter().zip(&begins).skip(1) {
        assert!(rest.starts_with(token.as_str()), "{token:?} is not at {rest:?}");
    }
    let (held, _, with_stop) = offsets(serde_json::json!({ "stop": ["went to the door.\n\"W and more"] }));
    assert_eq!((held, with_stop), (text, plain));
    // A special token has a name, and no place in the text.
    let eos = serde_json::json!({ "ignore_eos": true, "logit_bias": { "2": 100.0 } });
    let (nothing, names, none) = offsets(eos);
    assert_eq!((nothing.as_str(), none), ("", vec![0; 8]));
    assert!(names.iter().all(|name| name == "</s>"), "{names:?}");
}

#[test]
fn logprobs_are_those_of_the_models_distribution() {
    let mut engine = tale();
    let options = serde_json::json!({ "temperature": 0.0, "logprobs": 5, "max_tokens": 3 });
    let output = run(&mut engine, &request(options)).unwrap();
    let logits = block_on(engine.logits(&output.prompt_ids)).unwrap();
    let most = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let log_sum = most + logits.iter().map(|&l| (f64::from(l) - most).exp()).sum::<f64>().ln();
    let logprobs = output.logprobs.unwrap();
    assert_eq!(logprobs.len(), 3);
    let first = &logprobs[0];
    assert_eq!(first.top.len(), 5);
    assert_eq!(first.chosen.id, first.top[0].id);
    for alternative in &first.top {
        let expected = f64::from(logits[alternative.id as usize]) - log_sum;
        assert!((f64::from(alternative.logprob) - expected).abs() < 1e-4, "{alternative:?}, not {expected}");
        assert_eq!(alternative.token.as_bytes(), alternative.bytes);
    }
}

#[test]
fn ends_at_end_of_sequence_unless_told_otherwise() {
    let mut engine = tale();
    // Bias makes </s> certain at once.
    let bias = serde_json::json!({ "temperature": 0.0, "logit_bias": { "2": 100.0 } });
    let ended = run(&mut engine, &request(bias.clone())).unwrap();
    assert_eq!((ended.ids.as_slice(), ended.text.as_str()), ([2].as_slice(), ""));
    assert_eq!(ended.finish_reason, FinishReason::Stop);
    let mut on = bias;
    on["ignore_eos"] = true.into();
    let on = run(&mut engine, &request(on)).unwrap();
    assert_eq!((on.ids.len(), on.finish_reason), (24, FinishReason::Length));
}

#[test]
fn stops_where_the_context_ends() {
    let mut engine = tale();
    let prompt: Vec<u32> = (0..500).map(|i| 3 + i % 2000).collect();
    let output = run(&mut engine, &greedy(Prompt::Ids(prompt), 1000)).unwrap();
    assert_eq!((output.ids.len(), output.finish_reason), (12, FinishReason::Length));
}

#[test]
fn bad_requests_are_named_and_harmless() {
    let mut engine = tale();
    let ids = |ids: Vec<u32>| greedy(Prompt::Ids(ids), 4);
    let message = |role: &str| Message { role: role.into(), content: "x".into() };
    let bad = [
        (ids(vec![]), "no tokens"),
        (ids(vec![1, 2048]), "2048"),
        (ids(vec![1; 512]), "512"),
        (greedy(Prompt::Messages(vec![]), 4), "messages is empty"),
        (greedy(Prompt::Messages(vec![message("user"), message("user")]), 4), "alternate"),
        (request(serde_json::json!({ "temperature": -1.0 })), "temperature"),
        (request(serde_json::json!({ "top_p": 0.0 })), "top_p"),
        (request(serde_json::json!({ "min_p": 2.0 })), "min_p"),
        (request(serde_json::json!({ "repetition_penalty": 0.0 })), "repetition_penalty"),
        (request(serde_json::json!({ "max_tokens": 0 })), "max_tokens"),
        (request(serde_json::json!({ "stop": [""] })), "stop"),
        (request(serde_json::json!({ "logprobs": 21 })), "21"),
        (request(serde_json::json!({ "logit_bias": { "five": 1.0 } })), "five"),
        (request(serde_json::json!({ "logit_bias": { "5": 101.0 } })), "logit_bias"),
    ];
    for (request, named) in bad {
        let error = run(&mut engine, &request).unwrap_err();
        assert_eq!(error.code(), "bad-request", "{error}");
        assert!(error.to_string().contains(named), "{error} does not name {named}");
    }
    assert_eq!(run(&mut engine, &request(serde_json::json!({ "temperature": 0.0 }))).unwrap().ids.len(), 24);
}

#[test]
fn aborting_takes_effect_within_one_token() {
    let mut engine = tale();
    let seen = Cell::new(0);
    let result = block_on(engine.generate(
        &request(serde_json::json!({ "temperature": 0.0 })),
        &mut |_| seen.set(seen.get() + 1),
        &|| seen.get() >= 5,
    ));
    assert!(matches!(result, Err(EngineError::Aborted)), "{result:?}");
    assert_eq!(seen.get(), 5);
    let golden = "went to the door.\n\"Where";
    let text = run(&mut engine, &request(serde_json::json!({ "temperature": 0.0 }))).unwrap().text;
    assert!(text.starts_with(golden), "{text}");
}

/// The cache is reused for a common prefix, and the text does not depend on it.
#[test]
fn a_used_engine_says_what_a_fresh_one_says() {
    let words = |n: usize| -> Vec<u32> { (0..n as u32).map(|i| 3 + (i * 37) % 2000).collect() };
    let long = words(300);
    let mut fork = long.clone();
    fork[250] += 1;
    let mut longer = long.clone();
    longer.extend([5, 6, 7]);
    let mut used = tale();
    for prompt in [&long, &fork, &longer, &long] {
        let fresh = run(&mut tale(), &greedy(Prompt::Ids(prompt.clone()), 16)).unwrap();
        let again = run(&mut used, &greedy(Prompt::Ids(prompt.clone()), 16)).unwrap();
        assert_eq!(fresh.ids, again.ids);
    }
    let fresh = block_on(tale().logits(&longer)).unwrap();
    let _ = run(&mut used, &greedy(Prompt::Ids(long), 200)).unwrap();
    let request = Request { logprobs: Some(0), ..greedy(Prompt::Ids(longer), 1) };
    let logprob = |output: bise::engine::Output| output.logprobs.unwrap()[0].chosen.logprob.to_bits();
    let after_roll = logprob(run(&mut used, &request).unwrap());
    assert_eq!(after_roll, logprob(run(&mut tale(), &request).unwrap()), "bit for bit");
    assert!(fresh.iter().all(|l| l.is_finite()));
}
