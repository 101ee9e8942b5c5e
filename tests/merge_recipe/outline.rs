//! Recipes as plain data, for editors.

use bise::merge::Recipe;
use serde_json::json;

#[test]
fn a_recipe_is_plain_data() {
    let recipe = "name: mine
slices:
  - sources:
      - {model: a/one@v1, layer_range: [0, 6]}
      - {model: ./two, layer_range: [2, 8]}
    parameters: {t: 0.25}
merge_method: slerp
base_model: ./two
parameters:
  t: [{filter: mlp, value: [0, 1]}, {value: 0.5}]
dtype: bfloat16
out_dtype: torch.float16
tokenizer_source: a/one@v1
chat_template: auto
";
    let json = serde_json::to_value(Recipe::parse(recipe).unwrap()).unwrap();
    let source = |at: &str, model: &str, start: u32| json!({"place": at, "model": model, "layers": {"start": start, "end": start + 6}, "parameters": {}});
    assert_eq!(
        json,
        json!({
            "documents": [{
                "place": "line 1",
                "name": "mine",
                "method": "slerp",
                "base": "./two",
                "layout": {"slices": [{
                    "place": "line 3: slices[0]",
                    "sources": [
                        source("line 4: slices[0].sources[0]", "a/one@v1", 0),
                        source("line 5: slices[0].sources[1]", "./two", 2),
                    ],
                    "parameters": {"t": {
                        "place": "line 6: slices[0].parameters.t",
                        "conditions": [{"filter": null, "anchors": [0.25]}],
                    }},
                }]},
                "moduleParameters": {},
                "parameters": {"t": {
                    "place": "line 10: parameters.t",
                    "conditions": [{"filter": "mlp", "anchors": [0.0, 1.0]}, {"filter": null, "anchors": [0.5]}],
                }},
                "dtype": "bfloat16",
                "outDtype": "float16",
                "tokenizer": {"model": "a/one@v1"},
                "chatTemplate": "auto",
            }],
            "warnings": [],
        })
    );
}

#[test]
fn what_a_recipe_leaves_out_is_null() {
    let recipe =
        "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}]\nchat_template: '{{ x }}'";
    let json = serde_json::to_value(Recipe::parse(recipe).unwrap()).unwrap();
    let document = &json["documents"][0];
    assert_eq!(document["layout"]["models"][0]["layers"], json!(null));
    for key in ["name", "base", "dtype", "outDtype"] {
        assert_eq!(document[key], json!(null), "{key}");
    }
    assert_eq!(document["tokenizer"], json!("base"));
    assert_eq!(document["chatTemplate"], json!({"jinja": "{{ x }}"}));
}
