//! Gradients and filters against mergekit's values.

use bise::merge::schedule::{position, value};

use crate::support::{REFERENCE, SLERP, document, slices};

/// t per layer of the reference recipe, as mergekit 0.1.5 computes it, under one key of the vectors.
///
/// serde_json reads numbers to within one bit in the last place; these are compared bit for bit.
fn vectors(key: &str) -> Vec<f64> {
    let text = include_str!("../fixtures/vectors/gradient32.json");
    let (_, rest) = text.split_once(&format!("\"{key}\": ")).unwrap();
    let values = rest.trim_start_matches('[').split([']', '}']).next().unwrap();
    values.split(", ").map(|number| number.parse().unwrap()).collect()
}

#[test]
fn the_reference_recipe_has_mergekits_t_in_every_layer() {
    let document = document(REFERENCE);
    let slice = &slices(&document)[0];
    let t = |tensor: &str, position: f64| {
        let scopes = [slice.parameters.get("t"), document.parameters.get("t")];
        value(scopes, tensor, position).unwrap()
    };
    let (self_attn, mlp, other) = (vectors("self_attn"), vectors("mlp"), vectors("other"));
    assert_eq!((self_attn.len(), mlp.len(), other.len()), (32, 32, 1));
    let mut compared = 0;
    for layer in 0..32 {
        let position = position(layer, 32);
        for (tensor, golden) in [
            ("self_attn.q_proj", &self_attn),
            ("self_attn.k_proj", &self_attn),
            ("self_attn.v_proj", &self_attn),
            ("self_attn.o_proj", &self_attn),
            ("mlp.gate_proj", &mlp),
            ("mlp.up_proj", &mlp),
            ("mlp.down_proj", &mlp),
        ] {
            let name = format!("model.layers.{layer}.{tensor}.weight");
            assert_eq!(t(&name, position), golden[layer as usize], "{name}");
            compared += 1;
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            let name = format!("model.layers.{layer}.{norm}.weight");
            assert_eq!(t(&name, position), other[0], "{name}");
        }
    }
    assert_eq!(compared, 32 * 7);
    for name in ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] {
        assert_eq!(t(name, 0.0), 0.5, "{name}");
    }
    // The control: the next layer's value is another one.
    assert_ne!(t("self_attn", position(1, 32)), self_attn[2]);
}

#[test]
fn a_scope_that_does_not_match_falls_to_the_next() {
    let yaml = SLERP.replace("0.5", "[{value: 0.25, filter: mlp}]");
    let document = document(&yaml);
    let inner = document.parameters.get("t");
    let outer = crate::support::constant("", 0.75);
    assert_eq!(value([inner, Some(&outer)], "model.layers.0.mlp.up_proj.weight", 0.0), Some(0.25));
    assert_eq!(value([inner, None, Some(&outer)], "model.norm.weight", 0.0), Some(0.75));
    assert_eq!(value([inner], "model.norm.weight", 0.0), None);
    assert_eq!(value([inner], "model.layers.0.MLP.weight", 0.0), None, "filters are case-sensitive");
}

#[test]
fn positions_lie_within_the_slice() {
    assert_eq!([0, 1, 2].map(|index| position(index, 3)), [0.0, 0.5, 1.0]);
    assert_eq!(position(0, 1), 1.0);
}
