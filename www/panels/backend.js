/** Where models run, why there, and the switch to the other place. */

import { byId } from "./dom.js";

/** @typedef {import("../pkg/index.js").Engine["info"]} Info */
/** @typedef {"auto" | "webgpu" | "cpu"} Backend */

export class BackendPanel {
  /** What loads ask for: the address's `?backend=`, until the visitor switches. Kept with this page and no longer. */
  #choice = /** @type {Backend} */ (new URLSearchParams(globalThis.location.search).get("backend") ?? "auto");
  /** The address's `?kvCache=`: what is none is refused where it is used. */
  #kvCache = /** @type {"f16" | "f8" | null} */ (new URLSearchParams(globalThis.location.search).get("kvCache"));
  #reload;
  #note = byId("backend-note", HTMLElement);
  #why = byId("backend-why", HTMLElement);
  #switch = byId("backend-switch", HTMLButtonElement);
  /** Where the switch leads. @type {ReturnType<BackendPanel["other"]>} */
  #other = null;

  /** @param {() => Promise<boolean | null>} reload loads the model again, on what is chosen now; null: the visitor would rather not */
  constructor(reload) {
    this.#reload = reload;
    this.#switch.addEventListener("click", () => {
      if (this.#other) this.#use(this.#other.choose);
    });
  }

  /** What a load is to be told. @returns {{ backend: Backend, kvCache?: "f16" | "f8" }} */
  options() {
    return { backend: this.#choice, ...(this.#kvCache === null ? {} : { kvCache: this.#kvCache }) };
  }

  /**
   * The other place, and what chooses it for the loads to come; null where there is none.
   *
   * @param {"webgpu" | "cpu"} backend
   */
  other(backend) {
    const other = backend === "cpu" ? "webgpu" : "cpu";
    if (other === "webgpu" && !("gpu" in navigator)) return null;
    return { label: LABELS[other], choose: () => { this.#choice = other; } };
  }

  /**
   * Ways out where a load has failed for want of WebGPU, or of memory.
   *
   * @param {string | null} code
   * @returns {{ label: string, run: () => void }[]}
   */
  waysOut(code) {
    if (code !== "no-webgpu" && code !== "out-of-memory") return [];
    // A load that was left the choice does not say where memory was wanting.
    const failed = code === "no-webgpu" ? "webgpu" : this.#choice;
    const others = [failed === "cpu" ? null : this.other("webgpu"), failed === "webgpu" ? null : this.other("cpu")];
    return others.filter((other) => other !== null).map(({ label, choose }) => ({ label, run: () => this.#use(choose) }));
  }

  /** @param {() => void} choose */
  #use(choose) {
    const before = this.#choice;
    choose();
    void this.#reload().then((done) => {
      if (done === null) this.#choice = before;
    });
  }

  /** @param {Info | null} info */
  show(info) {
    this.#note.hidden = info === null;
    if (info === null) return;
    this.#why.textContent = whyOf(info);
    this.#other = this.other(info.backend);
    this.#switch.textContent = this.#other?.label ?? "";
    this.#switch.hidden = this.#other === null;
  }
}

const LABELS = Object.freeze({ webgpu: "Use WebGPU", cpu: "Use the processor" });

/** @param {Info} info */
function whyOf({ backend, backendReason, adapter }) {
  if (backend === "cpu") return `The processor computes, ${backendReason === null ? "as chosen" : `since ${backendReason}`}.`;
  if (adapter.software) return "WebGPU is software here: many times slower than a graphics card, and than the processor without it.";
  return "The graphics card computes, through WebGPU.";
}
