/** Before a large model is fetched: what it is, what it takes, and whether this machine will hold it. */

import { byId, element } from "./dom.js";
import { formatBytes, formatCount } from "./format.js";

/** @typedef {import("../pkg/index.js").Inspection} Inspection */

/** Downloads below this are not asked about, in bytes. */
const SMALL_BYTES = 300e6;

/** @type {Record<string, string>} */
const DTYPES = { F8_E4M3: "FP8", F8_E5M2: "FP8 (E5M2)", BF16: "bfloat16", F16: "float16", F32: "float32", F64: "float64" };

/**
 * Whether a model is loaded without asking.
 *
 * @param {Inspection} inspection
 */
export function needsNoQuestion({ downloadBytes, problems }) {
  return downloadBytes < SMALL_BYTES && problems.length === 0;
}

/**
 * What the card says, each as a fact and its detail.
 *
 * @param {Inspection} inspection
 * @param {number} contextLength
 * @param {boolean} local whether the files lie on this computer
 * @returns {[string, string][]}
 */
export function factsOf(inspection, contextLength, local) {
  const { downloadBytes, dtype, scales, files, storage, adapter, weights, kept, backend, backendReason } = inspection;
  const stored = DTYPES[dtype] ?? dtype;
  const form = weights === "f8" && !dtype.startsWith("F8") ? "FP8" : weights === "i8" ? "8-bit integers" : null;
  const converted = form === null ? "" : `, to become ${form} on the way`;
  const memory = memoryAt(inspection, contextLength);
  const [shards, layers] = [files === 1 ? "one file" : `${files} files`, `${inspection.architecture}, ${inspection.layers} layers`];
  /** @type {[string, string][]} */
  const facts = [
    [`${formatCount(inspection.parameters)} weights, ${stored}${converted}`, [layers, scales].filter(Boolean).join(", ")],
    kept ? ["Kept in this browser", "nothing to download"] : [`${formatBytes(downloadBytes)} to ${local ? "read" : "download"}`, shards],
    [`${formatBytes(memory.total)} of ${backend === "cpu" ? "this tab’s memory" : "GPU memory"}`, `${formatBytes(memory.weights)} for weights, ${formatBytes(memory.kvCache)} for ${contextLength} positions, ${formatBytes(memory.activations)} for the rest`],
  ];
  if (!local && !kept && storage) {
    const enough = storage.freeBytes >= memory.weights;
    facts.push([`${formatBytes(storage.freeBytes)} free in this browser’s storage`, enough ? "enough to keep the model for the next visit" : "not enough to keep the model: the next visit would download it again"]);
  }
  if (backend === "cpu") facts.push(["The processor computes", backendReason ?? "as chosen"]);
  else if (adapter?.software) facts.push(["No graphics card in use", "this adapter computes on the processor, slowly"]);
  return facts;
}

/**
 * @param {Inspection} inspection
 * @param {number} contextLength
 */
function memoryAt({ memory, contexts }, contextLength) {
  return { ...memory, ...contexts.find((each) => each.contextLength === contextLength) };
}

export class ConfirmPanel {
  #card = byId("confirm", HTMLElement);
  #title = byId("confirm-title", HTMLElement);
  #facts = byId("confirm-facts", HTMLElement);
  #problems = byId("confirm-problems", HTMLElement);
  #context = byId("confirm-context", HTMLSelectElement);
  #load = byId("confirm-load", HTMLButtonElement);
  #other = byId("confirm-other", HTMLButtonElement);
  #cancel = byId("confirm-cancel", HTMLButtonElement);

  /**
   * Asks whether to load; gives the context length, or null for a no, or "other" for what `other` says instead.
   *
   * @param {string} name
   * @param {Inspection} inspection
   * @param {{ local: boolean, signal: AbortSignal, other: string | null }} options
   * @returns {Promise<number | "other" | null>}
   */
  ask(name, inspection, { local, signal, other }) {
    const { contexts, contextLength, problems } = inspection;
    const lengths = new Set([...contexts.map((each) => each.contextLength), contextLength]);
    const choices = [...lengths].sort((a, b) => a - b);
    this.#title.textContent = `Load ${name}?`;
    this.#context.replaceChildren(...choices.map((length) => element("option", { value: String(length), textContent: length.toLocaleString("en"), selected: length === contextLength })));
    this.#problems.replaceChildren(...problems.map((textContent) => element("li", { textContent })));
    this.#other.hidden = other === null;
    this.#other.textContent = other ?? "";
    const show = () => {
      // What is in the way of the usual length need not be in that of a shorter one.
      const fits = problems.length === 0 || contexts.some((each) => String(each.contextLength) === this.#context.value);
      this.#problems.hidden = fits;
      this.#load.disabled = !fits;
      const facts = factsOf(inspection, Number(this.#context.value), local);
      this.#facts.replaceChildren(...facts.map(([fact, detail]) => element("li", {}, [fact, element("span", { textContent: detail === "" ? "" : `: ${detail}` })])));
    };
    show();
    this.#card.hidden = false;
    this.#card.scrollIntoView({ block: "nearest" });
    this.#title.focus();
    return new Promise((resolve) => {
      const over = new AbortController();
      const end = (/** @type {number | "other" | null} */ answer) => {
        over.abort();
        this.#card.hidden = true;
        resolve(answer);
      };
      const listen = { signal: over.signal };
      this.#context.addEventListener("change", show, listen);
      this.#load.addEventListener("click", () => end(Number(this.#context.value)), listen);
      this.#other.addEventListener("click", () => end("other"), listen);
      this.#cancel.addEventListener("click", () => end(null), listen);
      this.#card.addEventListener("keydown", (event) => {
        if (event.key === "Escape") end(null);
      }, listen);
      signal.addEventListener("abort", () => end(null), listen);
    });
  }
}
