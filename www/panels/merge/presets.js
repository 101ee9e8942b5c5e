/** Recipes to begin with, and what is known of their models. */

/** Models of this page by the names that its recipes give them. @type {Readonly<Record<string, string>>} */
export const EMBEDDED = Object.freeze({ "./tale": "./models/tale/", "./case": "./models/case/" });

/** Layers of each. */
export const EMBEDDED_LAYERS = 6;

/** Bytes of weights, where known. @type {Readonly<Record<string, number>>} */
export const KNOWN_BYTES = Object.freeze({
  "chihoonlee10/T3Q-DPO-Mistral-7B": 14.5e9,
  "MatthieuJ/ING_2003M2_SLERP": 14.5e9,
});

/** @typedef {{ id: string, title: string, text: string, recipe: string }} Preset */

/**
 * @param {string} a
 * @param {string} b
 * @param {number} layers
 */
const slices = (a, b, layers) => `slices:
  - sources:
      - model: ${a}
        layer_range: [0, ${layers}]
      - model: ${b}
        layer_range: [0, ${layers}]
`;

const CURVED = `parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
`;

/**
 * Both of the page's own models with one t for all tensors.
 *
 * @param {number} t
 */
export function evenRecipe(t) {
  return `${slices("./tale", "./case", EMBEDDED_LAYERS)}merge_method: slerp
base_model: ./tale
parameters:
  t: ${t}
dtype: bfloat16
`;
}

/** @type {readonly Preset[]} */
export const PRESETS = Object.freeze([
  {
    id: "reference",
    title: "ING_2003M3_SLERP",
    text: "the 7B model that bise was made for; downloads 2 × 14.5 GB",
    recipe: `${slices("chihoonlee10/T3Q-DPO-Mistral-7B", "MatthieuJ/ING_2003M2_SLERP", 32)}merge_method: slerp
base_model: chihoonlee10/T3Q-DPO-Mistral-7B
${CURVED}`,
  },
  {
    id: "tale-x-case",
    title: "tale × case",
    text: "the same curves over this page’s own models, 12 MB",
    recipe: `${slices("./tale", "./case", EMBEDDED_LAYERS)}merge_method: slerp
base_model: ./tale
${CURVED}`,
  },
  { id: "even", title: "Even blend", text: "tale and case, half and half everywhere", recipe: evenRecipe(0.5) },
  {
    id: "linear",
    title: "Linear",
    text: "a weighted mean of tale and case",
    recipe: `merge_method: linear
models:
  - model: ./tale
    parameters:
      weight: 0.7
  - model: ./case
    parameters:
      weight: 0.3
dtype: bfloat16
`,
  },
  {
    id: "passthrough",
    title: "Passthrough",
    text: "layers of tale below layers of case, eight in all",
    recipe: `slices:
  - sources:
      - model: ./tale
        layer_range: [0, 4]
  - sources:
      - model: ./case
        layer_range: [2, 6]
merge_method: passthrough
dtype: bfloat16
`,
  },
]);
