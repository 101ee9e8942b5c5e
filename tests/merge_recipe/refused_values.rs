//! Every refusal of parameters, values and YAML, with its exact place.

use crate::support::{LINEAR, PASSTHROUGH, SLERP, check, refusal};

#[test]
fn parameters() {
    check(
        SLERP,
        &[
            ("{t: 0.5}", "{}", "line 1: models", "t is missing: slerp needs it under parameters"),
            ("parameters: {t: 0.5}", "", "line 1: models", "t is missing"),
            (
                "{t: 0.5}",
                "{t: 1, weight: 1}",
                "line 4: parameters.weight",
                "slerp has no such parameter (it has: t)",
            ),
            ("{t: 0.5}", "[t]", "line 4: parameters", "must be a mapping of parameters, not a list"),
            ("0.5", "", "line 4: parameters.t", "a finite decimal number, not nothing"),
            ("0.5", "half", "line 4: parameters.t", "not \"half\""),
            ("0.5", "true", "line 4: parameters.t", "not \"true\""),
            ("0.5", ".nan", "line 4: parameters.t", "finite"),
            ("0.5", ".inf", "line 4: parameters.t", "finite"),
            ("0.5", "inf", "line 4: parameters.t", "finite"),
            ("0.5", "1e39", "line 4: parameters.t", "finite"),
            ("0.5", "010", "line 4: parameters.t", "not \"010\""),
            ("0.5", "1_0", "line 4: parameters.t", "not \"1_0\""),
            ("0.5", "0x1", "line 4: parameters.t", "not \"0x1\""),
            ("0.5", "[]", "line 4: parameters.t", "this list is empty"),
            ("0.5", "[1, x]", "line 4: parameters.t[1]", "not \"x\""),
            ("0.5", "[1, [1]]", "line 4: parameters.t[1]", "not a list"),
            ("0.5", "[1, {value: 1}]", "line 4: parameters.t[1]", "not a mapping"),
            ("0.5", "[{value: 1}, 1]", "line 4: parameters.t[1]", "a condition like the one before"),
            ("0.5", "{filter: mlp}", "line 4: parameters.t", "value is missing"),
            ("0.5", "{value: {value: 1}}", "line 4: parameters.t.value", "not a mapping"),
            ("0.5", "{value: []}", "line 4: parameters.t.value", "this list is empty"),
            ("0.5", "{value: 1, filter: 1}", "line 4: parameters.t.filter", "\"1\" is a number"),
            ("0.5", "{value: 1, filter: [mlp]}", "line 4: parameters.t.filter", "not a list"),
            ("0.5", "{value: 1, filter: *}", "line 4, column 36", "the filter \"*\", needs quotes"),
        ],
    );
    let only_sources =
        SLERP.replace("{model: b}", "{model: b, parameters: {t: 1}}").replace("parameters: {t: 0.5}", "");
    let (place, message) = refusal(&only_sources);
    assert_eq!(place, "line 1: models");
    assert!(message.ends_with("(slerp does not look at line 1: models[1].parameters.t)"), "{message}");
    check(
        LINEAR,
        &[
            (
                "{weight: 1}",
                "{}",
                "line 1: models[0]",
                "weight is missing: linear needs one for a, here or for all",
            ),
            ("weight: 1", "weight: 1, t: 1", "line 3: parameters.t", "(it has: weight, normalize)"),
            (
                "weight: 1",
                "weight: 1, normalize: 2",
                "line 3: parameters.normalize",
                "must be true or false, not \"2\"",
            ),
            ("weight: 1", "weight: 1, normalize: [true]", "line 3: parameters.normalize", "not a gradient"),
        ],
    );
    let some = "models: [{model: a, parameters: {weight: 1}}]\nmerge_method: linear\nbase_model: b\n";
    let (place, message) = refusal(some);
    assert_eq!((place.as_str(), message.contains("for b")), ("line 3: base_model", true), "{message}");
    check(PASSTHROUGH, &[("", "parameters: {weight: 1}", "line 3: parameters.weight", "(it has: scale)")]);
}

#[test]
fn a_slice_without_t_is_named() {
    let yaml = "\
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
    parameters: {t: 1}
  - sources: [{model: a, layer_range: [2, 3]}, {model: b, layer_range: [2, 3]}]
merge_method: slerp
base_model: a
";
    let (place, message) = refusal(yaml);
    assert_eq!(place, "line 4: slices[1]");
    assert!(message.contains("t is missing"), "{message}");
}

#[test]
fn values() {
    check(
        SLERP,
        &[
            (
                "",
                "dtype: bfloat61",
                "line 5: dtype",
                "\"bfloat61\" is no type to merge in; did you mean bfloat16?",
            ),
            ("", "dtype: int64", "line 5: dtype", "(there are: float16, bfloat16, float32, float64)"),
            ("", "out_dtype: torch.fp8", "line 5: out_dtype", "no type to merge in"),
            ("", "dtype: 16", "line 5: dtype", "is a number"),
            (
                "",
                "tokenizer_source: c",
                "line 5: tokenizer_source",
                "c is none of the models that are merged",
            ),
            (
                "",
                "tokenizer: {}",
                "line 5: tokenizer",
                "source is missing: base, union, or one of the models",
            ),
            ("", "tokenizer: base", "line 5: tokenizer", "must be a mapping with source, not \"base\""),
            ("", "tokenizer: {source: c}", "line 5: tokenizer.source", "none of the models"),
            (
                "",
                "tokenizer: {source: a}\ntokenizer_source: a",
                "line 5: tokenizer",
                "stands beside tokenizer_source",
            ),
            (
                "",
                "chat_template: chatml",
                "line 5: chat_template",
                "chatml names a template of mergekit's own",
            ),
            ("", "chat_template: alpaka", "line 5: chat_template", "(which has braces), not \"alpaka\""),
            ("", "chat_template: [auto]", "line 5: chat_template", "not a list"),
            ("", "name: 1", "line 5: name", "is a number"),
        ],
    );
}

#[test]
fn yaml() {
    check(
        SLERP,
        &[
            ("", "dtype: float16\ndtype: float32", "line 6, column 1", "the key \"dtype\" stands here twice"),
            ("{t: 0.5}", "{t: 0.5, t: 0.6}", "line 4, column 22", "twice"),
            ("{t: 0.5}", "&p {<<: {t: 1}}", "line 4, column 17", "merge keys (<<) are not read"),
            ("{t: 0.5}", "{t: !!float 0.5}", "line 4, column 17", "the tag \"!!float\" is not read"),
            ("{t: 0.5}", "{? [t] : 0.5}", "line 4, column 16", "a key must be a plain word"),
            ("{t: 0.5}", "{&t t: 0.5}", "line 4, column 14", "cannot carry an anchor"),
            ("{t: 0.5}", "{t: *none}", "line 4, column 17", "unknown anchor"),
            ("{t: 0.5}", "{t: 0.5", "line 5, column 1", "this is not YAML"),
            ("{t: 0.5}", "&p {t: [*p]}", "line 4, column 21", "inside its own anchor"),
            ("merge_method", "\tmerge_method", "line 2, column 2", "this is not YAML"),
            ("", "  x: y", "line 5, column 3", "this is not YAML"),
        ],
    );
    assert_eq!(refusal("a: b: c").0, "line 1, column 5");
}
