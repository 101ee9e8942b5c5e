/** Where models run, why there, and the switch to the other place. */

import { byId } from "./dom.js";

/** @typedef {import("../pkg/index.js").Engine["info"]} Info */
/** @typedef {"auto" | "webgpu" | "cpu"} Backend */

export class BackendPanel {
  /** What loads ask for: the address's `?backend=`, until the visitor switches. Kept with this page and no longer. */
  #choice = /** @type {Backend} */ (new URLSearchParams(globalThis.location.search).get("backend") ?? "auto");
  #reload;
  #note = byId("backend-note", HTMLElement);
  #why = byId("backend-why", HTMLElement);
  #switch = byId("backend-switch", HTMLButtonElement);
  /** Where the switch leads. @type {"webgpu" | "cpu"} */
  #other = "cpu";

  /** @param {() => void} reload loads the model again, on what is chosen now */
  constructor(reload) {
    this.#reload = reload;
    this.#switch.addEventListener("click", () => this.use(this.#other));
  }

  /** What a load is to be told. @returns {{ backend: Backend }} */
  options() {
    return { backend: this.#choice };
  }

  /** @param {"webgpu" | "cpu"} backend */
  use(backend) {
    this.#choice = backend;
    this.#reload();
  }

  /**
   * The way out where a load failed for want of WebGPU, or of memory where it was tried.
   *
   * @param {string} code
   * @returns {{ label: string, run: () => void }[]}
   */
  wayOut(code) {
    if (code === "no-webgpu") return [{ label: LABELS.cpu, run: () => this.use("cpu") }];
    const another = this.#choice === "webgpu" ? "cpu" : "webgpu";
    return code === "out-of-memory" && "gpu" in navigator ? [{ label: LABELS[another], run: () => this.use(another) }] : [];
  }

  /** @param {Info | null} info */
  show(info) {
    this.#note.hidden = info === null;
    if (info === null) return;
    this.#why.textContent = whyOf(info);
    this.#other = info.backend === "cpu" ? "webgpu" : "cpu";
    this.#switch.textContent = LABELS[this.#other];
    this.#switch.hidden = this.#other === "webgpu" && !("gpu" in navigator);
  }
}

const LABELS = Object.freeze({ webgpu: "Use WebGPU", cpu: "Use the processor" });

/** @param {Info} info */
function whyOf({ backend, backendReason, adapter }) {
  if (backend === "cpu") return `The processor computes, ${backendReason === null ? "as chosen" : `since ${backendReason}`}.`;
  if (adapter.software) return "WebGPU is software here: many times slower than a graphics card, and than the processor without it.";
  return "The graphics card computes, through WebGPU.";
}
