/** What the curves stand for: a SLERP of two models, between recipe and YAML. Pure functions. */

/** @typedef {import("../../pkg/index.js").RecipeOutline} RecipeOutline */
/** @typedef {RecipeOutline["documents"][number]} Document */
/** @typedef {{ model: string, layers: { start: number, end: number } | null }} Side */

/**
 * A recipe that curves can show: one SLERP of two models over all their layers.
 * @typedef {object} Blend
 * @property {string | null} name
 * @property {[Side, Side]} sides in the recipe's order
 * @property {string} base t = 0; one of the sides
 * @property {number[] | null} attention anchors of t; null: as the rest
 * @property {number[] | null} mlp
 * @property {number[]} rest
 * @property {string | null} dtype
 * @property {string | null} outDtype
 * @property {Document["tokenizer"]} tokenizer
 * @property {Document["chatTemplate"]} chatTemplate
 */

/** Curves by their key in a {@link Blend}, with the filter that recipes have for them. */
export const CURVES = Object.freeze(/** @type {const} */ ([
  { key: "attention", label: "Attention", scope: "", filter: "self_attn" },
  { key: "mlp", label: "MLP", scope: "", filter: "mlp" },
  { key: "rest", label: "The rest", scope: "norms, embedding, head", filter: null },
]));

/**
 * @param {RecipeOutline} outline
 * @returns {{ blend: Blend } | { reason: string }} or why curves cannot show it
 */
export function fromOutline({ documents }) {
  const [document] = documents;
  if (document === undefined || documents.length > 1) return { reason: `it is a chain of ${documents.length} merges` };
  if (document.method !== "slerp") return { reason: `its method is ${document.method}, which has no t` };
  const { layout } = document;
  const whole = "models" in layout ? { sources: layout.models, parameters: /** @type {Document["parameters"]} */ ({}) } : null;
  const slices = "slices" in layout ? layout.slices : [];
  const slice = whole ?? slices[0];
  if (slice === undefined || slices.length > 1) return { reason: `it has ${slices.length} slices` };
  const [one, two, ...more] = slice.sources;
  if (one === undefined || two === undefined || more.length > 0) return { reason: `it has ${slice.sources.length} models` };
  const t = document.parameters.t;
  if (slice.parameters.t || document.moduleParameters.t || t === undefined) {
    return { reason: "its t belongs to a slice or a module" };
  }
  const curves = fromConditions(t.conditions);
  if ("reason" in curves) return curves;
  const { name, dtype, outDtype, tokenizer, chatTemplate } = document;
  const sides = /** @type {[Side, Side]} */ ([one, two].map(({ model, layers }) => ({ model, layers })));
  return { blend: { name, sides, base: document.base ?? one.model, ...curves, dtype, outDtype, tokenizer, chatTemplate } };
}

/**
 * @param {{ filter: string | null, anchors: number[] }[]} conditions
 * @returns {Pick<Blend, "attention" | "mlp" | "rest"> | { reason: string }}
 */
function fromConditions(conditions) {
  /** @type {{ attention: number[] | null, mlp: number[] | null, rest: number[] | null }} */
  const found = { attention: null, mlp: null, rest: null };
  for (const { filter, anchors } of conditions) {
    if (anchors.some((t) => t < 0 || t > 1)) return { reason: "its t leaves the range from 0 to 1" };
    const curve = CURVES.find((each) => each.filter === (filter === "*" ? null : filter));
    if (curve === undefined) return { reason: `the filter “${filter}” is finer than these curves` };
    found[curve.key] ??= anchors;
    // What comes after a value for all is never reached.
    if (curve.key === "rest") return { ...found, rest: found.rest ?? anchors };
  }
  return { reason: "it gives norms and embeddings no t" };
}

/** @param {Blend} blend */
export function otherOf({ sides, base }) {
  return sides[0].model === base ? sides[1].model : sides[0].model;
}

/**
 * Layers of the result, or null where only the models know.
 *
 * @param {Blend} blend
 */
export function layersOf({ sides: [{ layers }] }) {
  return layers === null ? null : layers.end - layers.start;
}

/**
 * Value of a gradient at `position` in [0, 1]: linear between anchors that are spread evenly.
 *
 * @param {number[]} anchors
 * @param {number} position
 */
export function valueAt(anchors, position) {
  const scaled = position * (anchors.length - 1);
  const left = Math.min(Math.floor(scaled), anchors.length - 1);
  const fraction = scaled - left;
  return (1 - fraction) * (anchors[left] ?? 0) + fraction * (anchors[left + 1] ?? anchors[left] ?? 0);
}

/**
 * The recipe, as mergekit reads it.
 *
 * @param {Blend} blend
 */
export function toYaml(blend) {
  const { name, sides, base, dtype, outDtype, tokenizer, chatTemplate } = blend;
  const lines = name === null ? [] : [`name: ${scalar(name)}`];
  const ranged = sides.some(({ layers }) => layers !== null);
  lines.push(...(ranged ? ["slices:", "  - sources:"] : ["models:"]));
  for (const { model, layers } of sides) {
    lines.push(`${ranged ? "      " : "  "}- model: ${scalar(model)}`);
    if (layers !== null) lines.push(`        layer_range: [${layers.start}, ${layers.end}]`);
  }
  lines.push("merge_method: slerp", `base_model: ${scalar(base)}`, "parameters:", ...conditions(blend));
  if (dtype !== null) lines.push(`dtype: ${dtype}`);
  if (outDtype !== null) lines.push(`out_dtype: ${outDtype}`);
  if (tokenizer !== "base") lines.push(`tokenizer_source: ${tokenizer === "union" ? tokenizer : scalar(tokenizer.model)}`);
  if (chatTemplate !== null) lines.push(`chat_template: ${chatTemplate === "auto" ? chatTemplate : JSON.stringify(chatTemplate.jinja)}`);
  return `${lines.join("\n")}\n`;
}

/** @param {Blend} blend */
function conditions(blend) {
  const rest = list(blend.rest);
  if (blend.attention === null && blend.mlp === null) return [`  t: ${rest}`];
  const filtered = CURVES.flatMap(({ key, filter }) => {
    const anchors = blend[key];
    return filter === null || anchors === null ? [] : [`    - filter: ${filter}`, `      value: ${list(anchors)}`];
  });
  return ["  t:", ...filtered, `    - value: ${rest}`];
}

/** @param {number[]} anchors */
function list(anchors) {
  return anchors.length === 1 ? String(anchors[0]) : `[${anchors.join(", ")}]`;
}

/**
 * A text as a YAML scalar: plain where that is safe, else in quotes as JSON has them, which YAML reads.
 *
 * @param {string} text
 */
function scalar(text) {
  const isPlain = /^[A-Za-z./][\w./@:-]*$/.test(text) && !/^(true|false|yes|no|on|off|null|y|n|\.(inf|nan))$/i.test(text) && !/^[.\d]+(e\d+)?$/i.test(text) && !text.endsWith(":");
  return isPlain ? text : JSON.stringify(text);
}
