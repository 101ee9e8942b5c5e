//! Every form that is read.

use bise::dtype::Dtype;
use bise::merge::recipe::{
    ChatTemplateChoice, Condition, Document, Layout, Method, ModelRef, Parameter, Parameters, Slice, Source,
    TokenizerChoice,
};

use crate::support::{
    LINEAR, PASSTHROUGH, REFERENCE, SLERP, constant, document, model, models, parse, slices,
};

fn condition(filter: Option<&str>, anchors: &[f64]) -> Condition {
    Condition { filter: filter.map(str::to_owned), anchors: anchors.to_vec() }
}

#[test]
fn the_reference_recipe() {
    let source = |place: &str, path: &str| Source {
        place: place.into(),
        model: model(path),
        layers: Some(0..32),
        parameters: Parameters::new(),
    };
    let t = vec![
        condition(Some("self_attn"), &[0.0, 0.5, 0.3, 0.7, 1.0]),
        condition(Some("mlp"), &[1.0, 0.5, 0.7, 0.3, 0.0]),
        condition(None, &[0.5]),
    ];
    let t = Parameter { place: "line 10: parameters.t".into(), conditions: t };
    let wanted = Document {
        place: "line 1".into(),
        name: None,
        method: Method::Slerp,
        base: Some(model("chihoonlee10/T3Q-DPO-Mistral-7B")),
        layout: Layout::Slices(vec![Slice {
            place: "line 2: slices[0]".into(),
            sources: vec![
                source("line 3: slices[0].sources[0]", "chihoonlee10/T3Q-DPO-Mistral-7B"),
                source("line 5: slices[0].sources[1]", "MatthieuJ/ING_2003M2_SLERP"),
            ],
            parameters: Parameters::new(),
        }]),
        module_parameters: Parameters::new(),
        parameters: [("t".to_owned(), t)].into(),
        dtype: Some(Dtype::Bf16),
        out_dtype: None,
        tokenizer: TokenizerChoice::Base,
        chat_template: None,
    };
    assert_eq!(document(REFERENCE), wanted);
    // The same with Windows' line ends, a byte order mark and an explicit document.
    assert_eq!(document(&REFERENCE.replace('\n', "\r\n")), wanted);
    assert_eq!(document(&format!("\u{feff}{REFERENCE}")), wanted);
    assert_eq!(parse(&format!("---\n{REFERENCE}...\n")).documents.len(), 1);
}

#[test]
fn the_base_may_be_second_or_added() {
    let paths = |yaml: &str| models(&document(yaml)).iter().map(|s| s.model.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(SLERP), ["a", "b"]);
    assert_eq!(paths(&SLERP.replace("base_model: a", "base_model: b")), ["a", "b"]);
    let added = SLERP.replace("{model: a}, ", "");
    assert_eq!(paths(&added), ["b", "a"]);
    assert_eq!(models(&document(&added))[1].place, "line 3: base_model");
    assert_eq!(models(&document(SLERP))[1].place, "line 1: models[1]");
    // As mergekit does it for every method; the weight is the document's.
    assert_eq!(paths(&format!("{LINEAR}base_model: c\n")), ["a", "b", "c"]);
    assert_eq!(document(LINEAR).base, None);
    assert_eq!(document(&format!("{PASSTHROUGH}base_model: a\n")).base, Some(model("a")));
}

#[test]
fn slices_from_different_places_with_parameters_of_their_own() {
    let yaml = "\
merge_method: linear
slices:
- sources:
  - {model: a, layer_range: [0, 8], parameters: {weight: [0, 1]}}
  - {model: b, layer_range: [8, 16]}
  parameters:
    weight: 0.25
- sources:
  - {model: a, layer_range: [4, 5]}
parameters: {weight: 1, normalize: false}
";
    let document = document(yaml);
    let [first, second] = slices(&document) else { panic!("{document:?}") };
    assert_eq!(first.place, "line 3: slices[0]");
    assert_eq!(first.sources[0].layers, Some(0..8));
    assert_eq!(first.sources[1].layers, Some(8..16));
    let gradient = condition(None, &[0.0, 1.0]);
    assert_eq!(first.sources[0].parameters["weight"].conditions, [gradient]);
    assert_eq!(first.parameters["weight"], constant("line 7: slices[0].parameters.weight", 0.25));
    assert_eq!(second.sources[0].layers, Some(4..5));
    assert_eq!(document.parameters["normalize"], constant("line 10: parameters.normalize", 0.0));
}

#[test]
fn the_module_default_holds_a_layout_and_parameters() {
    let yaml = "\
modules:
  default:
    slices:
      - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
    parameters: {t: 0.25}
merge_method: slerp
base_model: b
";
    let sliced = document(yaml);
    assert_eq!(slices(&sliced)[0].place, "line 4: modules.default.slices[0]");
    assert_eq!(sliced.module_parameters["t"], constant("line 5: modules.default.parameters.t", 0.25));
    let whole = document("modules: {default: {models: [{model: a}]}}\nmerge_method: passthrough");
    assert_eq!(models(&whole)[0].model, model("a"));
}

#[test]
fn every_form_of_a_parameter() {
    let conditions = |text: &str| {
        let document = document(&SLERP.replace("0.5", text));
        document.parameters["t"].conditions.clone()
    };
    assert_eq!(conditions("1"), [condition(None, &[1.0])]);
    assert_eq!(conditions("1e-1"), [condition(None, &[0.1])]);
    assert_eq!(conditions(".5"), [condition(None, &[0.5])]);
    assert_eq!(conditions("'0.5'"), [condition(None, &[0.5])]);
    assert_eq!(conditions("[0, 0.5, 1]"), [condition(None, &[0.0, 0.5, 1.0])]);
    assert_eq!(conditions("{value: 0.5}"), [condition(None, &[0.5])]);
    assert_eq!(conditions("{value: [0, 1], filter: mlp}"), [condition(Some("mlp"), &[0.0, 1.0])]);
    assert_eq!(
        conditions("[{value: 0.5, filter: mlp}, {value: 1, filter: '*'}]"),
        [condition(Some("mlp"), &[0.5]), condition(Some("*"), &[1.0])]
    );
    assert_eq!(conditions("[{value: 0.5, filter: ~}]"), [condition(None, &[0.5])]);
    for (text, value) in
        [("true", 1.0), ("False", 0.0), ("yes", 1.0), ("off", 0.0), ("1", 1.0), ("0", 0.0), ("'true'", 1.0)]
    {
        let document = document(&LINEAR.replace("weight: 1", &format!("weight: 1, normalize: {text}")));
        assert_eq!(document.parameters["normalize"].conditions, [condition(None, &[value])], "{text}");
    }
    let scaled = document(&PASSTHROUGH.replace("a}", "a, parameters: {scale: -2}}"));
    assert_eq!(models(&scaled)[0].parameters["scale"].conditions, [condition(None, &[-2.0])]);
}

#[test]
fn dtypes_with_and_without_torch() {
    for (name, dtype) in [
        ("float16", Dtype::F16),
        ("bfloat16", Dtype::Bf16),
        ("float32", Dtype::F32),
        ("float64", Dtype::F64),
        ("torch.bfloat16", Dtype::Bf16),
    ] {
        let document = document(&format!("{SLERP}dtype: {name}\nout_dtype: {name}\n"));
        assert_eq!((document.dtype, document.out_dtype), (Some(dtype), Some(dtype)), "{name}");
    }
    assert_eq!(document(SLERP).dtype, None);
}

#[test]
fn model_references() {
    for (text, path, revision) in [
        ("owner/name", "owner/name", None),
        ("owner/name@v1.0", "owner/name", Some("v1.0")),
        ("../a b", "../a b", None),
        ("'12'", "12", None),
        ("{model: owner/name@main}", "owner/name", Some("main")),
        ("{model: {path: a@b+c}}", "a@b+c", None),
        ("{model: {path: a, revision: v2}, lora: ~}", "a", Some("v2")),
    ] {
        let yaml = PASSTHROUGH.replace("model: a", &format!("model: {text}"));
        let wanted = ModelRef { path: path.into(), revision: revision.map(str::to_owned) };
        assert_eq!(models(&document(&yaml))[0].model, wanted, "{text}");
    }
    let full = document(&PASSTHROUGH.replace("model: a", "model: {model: {path: a, revision: v2}}"));
    assert_eq!(models(&full)[0].model.to_string(), "a@v2");
}

#[test]
fn tokenizers_and_templates() {
    let tokenizer = |lines: &str| document(&format!("{SLERP}{lines}\n")).tokenizer;
    assert_eq!(tokenizer(""), TokenizerChoice::Base);
    assert_eq!(tokenizer("tokenizer_source: base"), TokenizerChoice::Base);
    assert_eq!(tokenizer("tokenizer_source: union"), TokenizerChoice::Union);
    assert_eq!(tokenizer("tokenizer_source: b"), TokenizerChoice::Model(model("b")));
    assert_eq!(tokenizer("tokenizer_source: {model: b}"), TokenizerChoice::Model(model("b")));
    assert_eq!(tokenizer("tokenizer: {source: union}"), TokenizerChoice::Union);
    assert_eq!(tokenizer("tokenizer: {source: b}\ntokenizer_source: ~"), TokenizerChoice::Model(model("b")));
    let template = |line: &str| document(&format!("{SLERP}{line}\n")).chat_template;
    assert_eq!(template("chat_template:"), None);
    assert_eq!(template("chat_template: auto"), Some(ChatTemplateChoice::Auto));
    assert_eq!(
        template("chat_template: |\n  {{ bos_token }}\n  x"),
        Some(ChatTemplateChoice::Jinja("{{ bos_token }}\nx\n".into()))
    );
}

#[test]
fn aliases_stand_for_what_they_name() {
    let yaml = "\
models:
  - {model: a, parameters: {weight: &w [0, 1]}}
  - {model: b, parameters: {weight: *w}}
merge_method: linear
";
    let document = document(yaml);
    let [a, b] = models(&document) else { panic!("{document:?}") };
    assert_eq!(a.parameters["weight"].conditions, b.parameters["weight"].conditions);
    assert_eq!(b.parameters["weight"].place, "line 3: models[1].parameters.weight");
}

#[test]
fn what_mergekit_ignores_is_said() {
    let warned = |yaml: &str| parse(yaml).warnings.join("\n");
    let per_model = SLERP.replace("{model: b}", "{model: b, parameters: {t: 0.1}}");
    assert_eq!(
        warned(&per_model),
        "line 1: models[1].parameters.t: ignored, as mergekit does: t is not per model; put it under the \
         slice or the document"
    );
    assert!(models(&parse(&per_model).documents[0])[1].parameters.is_empty());
    let normalize = LINEAR.replace("{model: a}", "{model: a, parameters: {normalize: true}}");
    assert!(warned(&normalize).starts_with("line 1: models[0].parameters.normalize: ignored"));

    assert_eq!(
        warned(&SLERP.replace("0.5", "[0, 1.5]")),
        "line 4: parameters.t: t = 1.5 lies beyond the parents (0: the base, 1: the other); slerp extrapolates"
    );
    assert_eq!(warned(&LINEAR.replace("weight: 1", "weight: -3")), "");

    let t = |conditions: &str| warned(&SLERP.replace("0.5", conditions));
    assert_eq!(
        t("[{value: 0}, {value: 1, filter: mlp}]"),
        "line 4: parameters.t: condition 2 (filter \"mlp\") is never used: filter \"*\" before it lets \
         through all of its tensors"
    );
    assert!(t("[{value: 0, filter: mlp}, {value: 1, filter: mlp.down}]").contains("condition 2"));
    assert!(t("[{value: 0, filter: mlp}, {value: 1, filter: mlp}]").contains("condition 2"));
    assert_eq!(t("[{value: 0, filter: mlp.down}, {value: 1, filter: mlp}, {value: 1}]"), "");
}
