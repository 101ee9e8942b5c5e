//! Several documents that build on one another.

use bise::merge::Recipe;

use crate::support::{model, models, parse, refusal};

const CHAIN: &str = "\
name: first
models: [{model: a}, {model: b}]
merge_method: slerp
base_model: a
parameters: {t: 0.5}
---
name: second
models: [{model: first}, {model: c@v1}]
merge_method: slerp
base_model: first
parameters: {t: 0.25}
---
models: [{model: second}, {model: first}]
merge_method: linear
parameters: {weight: 1}
tokenizer_source: first
";

#[test]
fn later_documents_use_earlier_ones() {
    let recipe = parse(CHAIN);
    let names: Vec<_> = recipe.documents.iter().map(|document| document.name.as_deref()).collect();
    assert_eq!(names, [Some("first"), Some("second"), None]);
    assert_eq!(recipe.documents[1].base, Some(model("first")));
    assert_eq!(models(&recipe.documents[2])[0].model, model("second"));
    let places: Vec<_> = recipe.documents.iter().map(|document| document.place.as_str()).collect();
    assert_eq!(places, ["document 1 (first), line 1", "document 2 (second), line 7", "document 3, line 13"]);
    assert_eq!(models(&recipe.documents[1])[1].place, "document 2 (second), line 8: models[1]");
    // The last may have a name, too, and a single document as well.
    assert!(Recipe::parse(&CHAIN.replace("tokenizer_source: first", "name: third")).is_ok());
    assert!(Recipe::parse("name: x\nmodels: [{model: a}]\nmerge_method: passthrough").is_ok());
}

#[test]
fn broken_chains_are_refused() {
    for (from, to, place, message) in [
        ("name: second\n", "", "document 2, line 7", "name is missing"),
        ("name: second", "name: first", "document 2 (first), line 7: name", "called \"first\", too"),
        ("name: second", "name: a@b", "document 2 (\"a@b\"), line 7: name", "no @ and no +"),
        ("name: second", "name: [x]", "document 2, line 7: name", "must be a name"),
        ("name: second", "name: 7", "document 2 (7), line 7: name", "\"7\" is a number"),
        (
            "{model: first}, {model: c@v1}",
            "{model: second}, {model: first}",
            "document 2 (second), line 8: models[0]",
            "cannot use itself",
        ),
        (
            "{model: b}",
            "{model: second}",
            "document 1 (first), line 2: models[1]",
            "made by a later document",
        ),
        ("{model: c@v1}", "{model: first@v1}", "document 2 (second), line 8: models[1]", "has no revisions"),
        ("{model: second}, ", "", "document 2 (second), line 7", "no later document uses this one"),
        ("parameters: {weight: 1}", "parameters: {t: 1}", "document 3, line 15: parameters.t", "no such"),
        ("tokenizer_source: first\n", "---\n", "document 4, line 17", "empty"),
        (
            "tokenizer_source: first",
            "tokenizer_source: a",
            "document 3, line 16: tokenizer_source",
            "none of",
        ),
    ] {
        assert!(CHAIN.contains(from), "{from}");
        let yaml = CHAIN.replacen(from, to, 1);
        let (found, text) = refusal(&yaml);
        assert_eq!(found, place, "{text}\n{yaml}");
        assert!(text.contains(message), "{text}");
    }
    let own = "name: a\nmodels: [{model: a}]\nmerge_method: passthrough";
    assert_eq!(refusal(own).0, "line 2: models[0]");
}

#[test]
fn an_anchor_ends_with_its_document() {
    let yaml = "name: x\nmodels: [{model: &m a}]\nmerge_method: passthrough\n---\n\
                models: [{model: *m}, {model: x}]\nmerge_method: linear\nparameters: {weight: 1}";
    assert_eq!(refusal(yaml).0, "line 5, column 18");
}
