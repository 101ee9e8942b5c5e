//! Every refusal of structure, with its exact place and words that tell what would be right.

use crate::support::{LINEAR, PASSTHROUGH, REFERENCE, SLERP, check, refusal};

#[test]
fn unknown_keys_at_every_level() {
    check(
        REFERENCE,
        &[
            (
                "merge_method:",
                "merge_metod:",
                "line 7: merge_metod",
                "did you mean merge_method? (known here",
            ),
            ("- sources:", "- soruces:", "line 2: slices[0].soruces", "did you mean sources?"),
            (
                "layer_range",
                "layers",
                "line 4: slices[0].sources[0].layers",
                "unknown key (known here: model, ",
            ),
            ("  t:", "  T:", "line 10: parameters.T", "did you mean t? (it has: t)"),
            ("- filter: mlp", "- filters: mlp", "line 13: parameters.t[1].filters", "did you mean filter?"),
            ("", "random_seed: 7", "line 17: random_seed", "known here: slices, models, modules"),
            ("", "\"a b\": 7", "line 17: \"a b\"", "unknown key"),
            ("", "tokenizer: {sorce: base}", "line 17: tokenizer.sorce", "did you mean source?"),
        ],
    );
    check(
        PASSTHROUGH,
        &[
            (
                "{model: a}",
                "{model: {model: {path: a, rev: b}}}",
                "line 1: models[0].model.model.rev",
                "path, revision",
            ),
            ("{model: a}", "{model: {path: a}}", "line 1: models[0].model.path", "known here: model"),
            (
                "models: [{model: a}]",
                "modules: {default: {models: [{model: a}], dtype: x}}",
                "line 1: modules.default.dtype",
                "known here: slices, models, parameters",
            ),
        ],
    );
}

#[test]
fn keys_that_only_mergekit_honours() {
    check(
        REFERENCE,
        &[
            ("- sources:", "- base_model: x\n    sources:", "line 2: slices[0].base_model", "per slice"),
            (
                "- sources:",
                "- residual_weight: 1\n    sources:",
                "line 2: slices[0].residual_weight",
                "leave it out",
            ),
            ("", "tokenizer: {source: base, tokens: {}}", "line 17: tokenizer.tokens", "not supported"),
            (
                "",
                "tokenizer: {source: base, pad_to_multiple_of: 8}",
                "line 17: tokenizer.pad_to_multiple_of",
                "not supported",
            ),
        ],
    );
    check(
        PASSTHROUGH,
        &[
            (
                "{model: a}",
                "{model: a, layer_range: [0, 2]}",
                "line 1: models[0].layer_range",
                "under slices",
            ),
            ("{model: a}", "{model: a+b}", "line 1: models[0].model", "LoRA"),
            ("{model: a}", "{model: {model: a, lora: b}}", "line 1: models[0].model.lora", "LoRA"),
            (
                "{model: a}",
                "{model: {model: a, override_architecture: X}}",
                "line 1: models[0].model.override_architecture",
                "leave it out",
            ),
        ],
    );
}

#[test]
fn methods() {
    for method in [
        "arcee_fusion",
        "breadcrumbs",
        "breadcrumbs_ties",
        "dare_linear",
        "dare_ties",
        "della",
        "della_linear",
        "karcher",
        "model_stock",
        "multislerp",
        "nearswap",
        "nuslerp",
        "ram",
        "ramplus_tl",
        "sce",
        "task_arithmetic",
        "ties",
    ] {
        let (place, message) =
            refusal(&REFERENCE.replace("merge_method: slerp", &format!("merge_method: {method}")));
        assert_eq!(place, "line 7: merge_method");
        let wanted = format!(
            "{method} is not supported: bise merges with slerp, linear, passthrough; mergekit has it"
        );
        assert_eq!(message, wanted);
    }
    check(
        REFERENCE,
        &[
            (
                "method: slerp",
                "method: SLERP",
                "line 7: merge_method",
                "no merge method is called \"SLERP\"; did you mean slerp?",
            ),
            (
                "method: slerp",
                "method: mean",
                "line 7: merge_method",
                "(there are: slerp, linear, passthrough)",
            ),
            ("method: slerp", "method: 1", "line 7: merge_method", "\"1\" is a number"),
            ("method: slerp", "method:", "line 1", "merge_method is missing: slerp, linear or passthrough"),
        ],
    );
}

#[test]
fn layouts() {
    check(
        SLERP,
        &[
            (
                "models: [{model: a}, {model: b}]",
                "",
                "line 2",
                "exactly one of slices, models, modules is wanted",
            ),
            ("[{model: a}, {model: b}]", "[]", "line 1: models", "this list is empty"),
            ("[{model: a}, {model: b}]", "a", "line 1: models", "must be a list of models, not \"a\""),
            (
                "[{model: a}, {model: b}]",
                "[a, b]",
                "line 1: models[0]",
                "must be a model: {model, parameters}, not \"a\"",
            ),
            ("{model: b}", "{}", "line 1: models[1]", "model is missing"),
            ("{model: b}", "{model: }", "line 1: models[1]", "model is missing"),
            ("", "slices: []", "line 1: models", "stands beside slices"),
            ("", "modules: {}", "line 1: models", "stands beside modules"),
            ("models: [{model: a}, {model: b}]", "modules: {}", "line 1: modules", "it is empty"),
            (
                "models:",
                "modules:",
                "line 1: modules",
                "must be a mapping with the module default, not a list",
            ),
            (
                "models: [{model: a}, {model: b}]",
                "modules: {vision: {models: [{model: a}]}}",
                "line 1: modules.vision",
                "no module \"vision\"",
            ),
            (
                "models: [{model: a}, {model: b}]",
                "modules: {default: {}}",
                "line 1: modules.default",
                "exactly one of slices, models is",
            ),
            (
                "models: [{model: a}, {model: b}]",
                "modules: {default: {models: [{model: a}], slices: []}}",
                "line 1: modules.default.models",
                "beside slices",
            ),
            (
                "models:",
                "slices:",
                "line 1: slices[0].model",
                "unknown key (known here: sources, parameters)",
            ),
        ],
    );
    for (yaml, place) in [
        ("", "line 1"),
        ("# nothing\n", "line 1"),
        ("---\n", "line 2"),
        ("~", "line 1"),
        ("slerp", "line 1"),
        ("[1]", "line 1"),
    ] {
        assert_eq!(refusal(yaml).0, place, "{yaml:?}");
    }
}

#[test]
fn layer_ranges() {
    let range = |to: &'static str, words: &'static str| {
        check(REFERENCE, &[("layer_range: [0, 32]", to, "line 4: slices[0].sources[0].layer_range", words)]);
    };
    range("layer_range: [32, 0]", "[32, 0] holds no layer");
    range("layer_range: [8, 8]", "[8, 8] holds no layer");
    range("layer_range: [0, 16, 32]", "here are 3");
    range("layer_range: [32]", "here are 1");
    range("layer_range: []", "this list is empty");
    range("layer_range: 32", "must be a list of two numbers");
    check(
        REFERENCE,
        &[
            ("[0, 32]", "[-1, 31]", "line 4: slices[0].sources[0].layer_range[0]", "not \"-1\""),
            ("[0, 32]", "[0, 010]", "line 4: slices[0].sources[0].layer_range[1]", "not \"010\""),
            ("[0, 32]", "[0, 3.5]", "line 4: slices[0].sources[0].layer_range[1]", "not \"3.5\""),
            (
                "[0, 32]",
                "[0, 5000000000]",
                "line 4: slices[0].sources[0].layer_range[1]",
                "the number of a layer",
            ),
            ("[0, 32]", "[0, [1]]", "line 4: slices[0].sources[0].layer_range[1]", "not a list"),
            (
                "[0, 32]",
                "[0, 31]",
                "line 6: slices[0].sources[1].layer_range",
                "[0, 32] are 32 layers, but the first source of this slice has 31",
            ),
            ("        layer_range: [0, 32]\n", "", "line 3: slices[0].sources[0]", "layer_range is missing"),
        ],
    );
}

#[test]
fn sources() {
    check(
        SLERP,
        &[
            (
                "{model: a}, ",
                "{model: a}, {model: c}, ",
                "line 1: models",
                "slerp combines two models, here are 3",
            ),
            ("[{model: a}, {model: b}]", "[{model: a}]", "line 1: models", "here is 1"),
            ("base_model: a", "base_model: c", "line 1: models", "here are 3: base_model counts"),
            ("{model: b}", "{model: a}", "line 1: models[1]", "a is combined with itself"),
            ("base_model: a", "", "line 1", "base_model is missing"),
            ("base_model: a", "base_model: ~", "line 1", "base_model is missing"),
            ("base_model: a", "base_model: 12", "line 3: base_model", "without quotes \"12\" is a number"),
        ],
    );
    check(
        REFERENCE,
        &[
            (
                "base_model: chihoonlee10/T3Q",
                "base_model: chihoonlee10/T3K",
                "line 8: base_model",
                "did you mean chihoonlee10/T3Q-DPO-Mistral-7B?",
            ),
            (
                "base_model: chihoonlee10/T3Q-DPO-Mistral-7B",
                "base_model: x",
                "line 8: base_model",
                "none of the models",
            ),
        ],
    );
    let second =
        "  - sources: [{model: b, layer_range: [0, 1]}, {model: c, layer_range: [0, 1]}]\nmerge_method";
    let (place, message) = refusal(&REFERENCE.replace("merge_method", second));
    assert_eq!(place, "line 7: slices[1]");
    assert_eq!(
        message,
        "base_model chihoonlee10/T3Q-DPO-Mistral-7B must be one of the two, but here are b, c"
    );
    check(
        PASSTHROUGH,
        &[
            (
                "{model: a}",
                "{model: a}, {model: b}",
                "line 1: models",
                "passthrough takes one model at a time, here are 2",
            ),
            ("", "base_model: b", "line 1: models", "here are 2: base_model counts"),
            (
                "models: [{model: a}]",
                "base_model: b\nslices: [{sources: [{model: a, layer_range: [0, 1]}]}]",
                "line 1: base_model",
                "b is none of the models that are merged: a",
            ),
        ],
    );
    check(LINEAR, &[("{model: b}", "{model: a}", "line 1: models[1]", "name each model once")]);
}

#[test]
fn models() {
    check(
        PASSTHROUGH,
        &[
            ("{model: a}", "{model: a@b@c}", "line 1: models[0].model", "with one @, not \"a@b@c\""),
            ("{model: a}", "{model: a@}", "line 1: models[0].model", "with one @"),
            ("{model: a}", "{model: '@b'}", "line 1: models[0].model", "with one @"),
            ("{model: a}", "{model: ' '}", "line 1: models[0].model", "it is empty"),
            ("{model: a}", "{model: 7}", "line 1: models[0].model", "\"7\" is a number"),
            ("{model: a}", "{model: on}", "line 1: models[0].model", "\"on\" is a boolean"),
            ("{model: a}", "{model: [a]}", "line 1: models[0].model", "not a list"),
            (
                "{model: a}",
                "{model: {model: {revision: b}}}",
                "line 1: models[0].model.model",
                "path is missing",
            ),
            (
                "{model: a}",
                "{model: {model: {path: a, revision: 12}}}",
                "line 1: models[0].model.model.revision",
                "is a number",
            ),
        ],
    );
}
