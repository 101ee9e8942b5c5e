/** Failures, in plain words with what to do: never a dialog box. */

import { BiseError } from "../pkg/index.js";
import { button, byId, element } from "./dom.js";

/** @type {Record<import("../pkg/index.js").BiseError["code"], string>} */
const TITLES = {
  "no-webgpu": "There is no WebGPU here",
  "unsupported-browser": "This browser cannot run models",
  "device-lost": "The engine was lost",
  "out-of-memory": "Not enough memory",
  "unsupported-model": "This kind of model is not supported",
  "bad-checkpoint": "The model’s files are missing, incomplete or damaged",
  "bad-recipe": "The recipe cannot be used",
  "bad-request": "That did not work",
  network: "The model could not be fetched",
  integrity: "The model’s files are not what they should be",
  quota: "No room left in the browser’s storage",
  aborted: "Stopped",
};

/** @type {Partial<Record<import("../pkg/index.js").BiseError["code"], string>>} */
const REMEDIES = {
  "no-webgpu": "On Linux, WebGPU may have to be switched on in the browser’s settings first. The processor runs models, too.",
  "device-lost": "Other programs, a driver update or a sleeping computer can take the graphics device away. Loading the model again usually helps.",
  "out-of-memory": "Close other tabs, or take a shorter context, weights of 8 bits or a smaller model.",
  network: "Check the name or address and your connection. A gated model needs your access token, which the model panel takes; or download it and open its folder.",
};

/** @typedef {{ label: string, run: () => void }} Action */

export class MessagePanel {
  #box;

  /** @param {string} [id] of the box */
  constructor(id = "message") {
    this.#box = byId(id, HTMLElement);
  }

  /**
   * @param {unknown} thrown
   * @param {Action[]} actions
   */
  error(thrown, actions) {
    const code = thrown instanceof BiseError ? thrown.code : "bad-request";
    const detail = thrown instanceof Error ? thrown.message : String(thrown);
    const remedy = REMEDIES[code];
    this.show(TITLES[code], remedy ? [detail, remedy] : [detail], actions);
    if (!(thrown instanceof BiseError)) console.error(thrown);
  }

  /**
   * @param {string} title
   * @param {string[]} paragraphs
   * @param {Action[]} actions
   */
  show(title, paragraphs, actions) {
    const buttons = actions.map(({ label, run }) => button(label, () => {
      this.clear();
      run();
    }));
    this.#box.replaceChildren(
      element("h2", { textContent: title }),
      ...paragraphs.map((textContent) => element("p", { textContent })),
      ...(buttons.length > 0 ? [element("div", { className: "actions" }, buttons)] : []),
    );
    this.#box.hidden = false;
    this.#box.scrollIntoView({ block: "nearest" });
  }

  clear() {
    this.#box.hidden = true;
    this.#box.replaceChildren();
  }
}
