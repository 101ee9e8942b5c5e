/** The curves of the merge view: what a recipe says, and the recipe they write. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { downloadNote } from "../../www/panels/format.js";
import { fromOutline, layersOf, otherOf, toYaml, valueAt } from "../../www/panels/merge/blend.js";
import { PRESETS } from "../../www/panels/merge/presets.js";

const condition = (/** @type {string | null} */ filter, /** @type {number[]} */ ...anchors) => ({ filter, anchors });

/** What recipeOutline gives for two models and these conditions of t. */
function outline(conditions = [condition(null, 0.5)], changes = {}, slice = {}) {
  const source = (/** @type {string} */ model) => ({ place: "", model, layers: { start: 0, end: 32 }, parameters: {} });
  const slices = [{ place: "", sources: [source("a/one"), source("b/two")], parameters: {}, ...slice }];
  const document = {
    place: "line 1", name: null, method: "slerp", base: "b/two", layout: { slices }, moduleParameters: {},
    parameters: { t: { place: "", conditions } }, dtype: "bfloat16", outDtype: null, tokenizer: "base", chatTemplate: null, ...changes,
  };
  return /** @type {any} */ ({ documents: [document], warnings: [], models: ["a/one", "b/two"] });
}

/** @param {any} read @returns {any} */
function blendOf(read) {
  const shown = fromOutline(read);
  assert.ok("blend" in shown, JSON.stringify(shown));
  return shown.blend;
}

test("the conditions of t become three curves", () => {
  const blend = blendOf(outline([condition("self_attn", 0, 1), condition("mlp", 1, 0), condition("*", 0.5), condition(null, 0.9)]));
  assert.deepEqual([blend.attention, blend.mlp, blend.rest], [[0, 1], [1, 0], [0.5]]);
  assert.deepEqual([blend.base, otherOf(blend), layersOf(blend)], ["b/two", "a/one", 32]);
  // The first that matches counts; behind one for all nothing is reached.
  const early = blendOf(outline([condition("mlp", 0.2), condition("mlp", 0.3), condition(null, 0.5), condition("self_attn", 1)]));
  assert.deepEqual([early.attention, early.mlp, early.rest], [null, [0.2], [0.5]]);
});

test("what curves cannot show is text only, with the reason", () => {
  /** @type {[any, RegExp][]} */
  const cases = [
    [{ ...outline(), documents: [...outline().documents, ...outline().documents] }, /chain of 2/],
    [outline(undefined, { method: "linear" }), /linear/],
    [outline(undefined, { layout: { slices: [...outline().documents[0].layout.slices, ...outline().documents[0].layout.slices] } }), /2 slices/],
    [outline(undefined, { layout: { models: outline().documents[0].layout.slices[0].sources.slice(1) } }), /1 model/],
    [outline(undefined, {}, { parameters: { t: {} } }), /a slice or a module/],
    [outline(undefined, { parameters: {} }), /a slice or a module/],
    [outline([condition("q_proj", 0.1), condition(null, 0.5)]), /“q_proj” is finer/],
    [outline([condition("self_attn", 0.1)]), /norms and embeddings/],
    [outline([condition(null, 0.5, 1.5)]), /range from 0 to 1/],
  ];
  for (const [read, reason] of cases) assert.match(/** @type {any} */ (fromOutline(read)).reason, reason);
});

test("the text keeps all that the recipe says", () => {
  const blend = blendOf(outline([condition("self_attn", 0, 0.25), condition(null, 0.5)], {
    name: "mine", outDtype: "float16", tokenizer: { model: "a/one" }, chatTemplate: { jinja: "{{ messages }}\n\"x\"" },
  }));
  assert.equal(toYaml(blend), `name: mine
slices:
  - sources:
      - model: a/one
        layer_range: [0, 32]
      - model: b/two
        layer_range: [0, 32]
merge_method: slerp
base_model: b/two
parameters:
  t:
    - filter: self_attn
      value: [0, 0.25]
    - value: 0.5
dtype: bfloat16
out_dtype: float16
tokenizer_source: a/one
chat_template: "{{ messages }}\\n\\"x\\""
`);
  const plain = { ...blend, name: null, attention: null, dtype: null, outDtype: null, tokenizer: "base", chatTemplate: null };
  const sides = blend.sides.map((/** @type {object} */ side) => ({ ...side, layers: null }));
  assert.equal(toYaml({ ...plain, sides }), "models:\n  - model: a/one\n  - model: b/two\nmerge_method: slerp\nbase_model: b/two\nparameters:\n  t: 0.5\n");
});

test("names that YAML would read as something else are quoted", () => {
  const written = (/** @type {string} */ name) => toYaml({ ...blendOf(outline()), name }).split("\n")[0];
  for (const plain of ["./tale", "owner/name@v1.0", "https://host.example/m/", "x_y"]) assert.equal(written(plain), `name: ${plain}`);
  for (const odd of ["true", "No", "1e5", "12", ".5", ".inf", "a b", "a: b", "x:", "- a", "#x", "a #b", "it's", "*all", "&a", ""]) assert.equal(written(odd), `name: ${JSON.stringify(odd)}`);
});

test("a gradient is linear between anchors", () => {
  const anchors = [0, 0.5, 0.3, 0.7, 1];
  const at = (/** @type {number} */ layer) => Number(valueAt(anchors, layer / 31).toFixed(7));
  assert.deepEqual([0, 1, 8, 15, 16, 24, 31].map(at), [0, 0.0645161, 0.4935484, 0.3129032, 0.3258065, 0.7290323, 1]);
  assert.equal(valueAt([0.4], 0.7), 0.4);
});

test("a merge says what it downloads", () => {
  assert.equal(downloadNote({ bytes: [], unknown: 0 }), "");
  assert.equal(downloadNote({ bytes: [14.5e9, 14.5e9], unknown: 0 }), "This downloads about 2 × 14.5 GB, 29.0 GB in all.");
  assert.equal(downloadNote({ bytes: [14.5e9, 0], unknown: 1 }), "This downloads about 14.5 GB, and one model whose size is not known yet.");
  assert.equal(downloadNote({ bytes: [0, 0], unknown: 2 }), "This downloads 2 models whole; the size is not known yet.");
  assert.equal(PRESETS[0]?.id, "reference");
});
