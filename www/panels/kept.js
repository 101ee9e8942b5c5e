/** The models that this browser keeps: how large, whole or in part, and deleting them. */

import { cache } from "../pkg/index.js";
import { button, byId, element } from "./dom.js";
import { formatBytes, shortName } from "./format.js";

/** @typedef {import("../pkg/index.js").CachedModel} CachedModel */

export class KeptPanel {
  #section = byId("kept", HTMLElement);
  #list = byId("kept-list", HTMLElement);
  #total = byId("kept-total", HTMLElement);
  #note = byId("kept-note", HTMLElement);
  #pins = byId("kept-pins", HTMLElement);
  #pinList = byId("kept-pin-list", HTMLElement);
  #onFailed;

  /** @param {(thrown: unknown) => void} onFailed */
  constructor(onFailed) {
    this.#onFailed = onFailed;
    byId("kept-clear", HTMLButtonElement).addEventListener("click", () => void this.#delete(() => cache.clear()));
  }

  /**
   * Shows why a model is not kept; null: nothing to say.
   *
   * @param {string | null} note
   */
  note(note) {
    this.#note.hidden = note === null;
    this.#note.textContent = note === null ? "" : `Note: ${note}.`;
  }

  async refresh() {
    const [models, pinned, { free }] = await Promise.all([cache.list(), cache.pinned(), cache.space()]);
    this.#section.hidden = models.length + pinned.length === 0;
    this.#pins.hidden = pinned.length === 0;
    this.#pinList.replaceChildren(...pinned.map(({ url }) => this.#pin(url)));
    this.#list.replaceChildren(...models.map((model) => this.#item(model)));
    const total = models.reduce((sum, { bytes }) => sum + bytes, 0);
    this.#total.textContent = `${formatBytes(total)} in all${free === null ? "" : `, room for ${formatBytes(free)} more`}`;
  }

  /** @param {CachedModel} model */
  #item({ id, name, weights, bytes, complete, url }) {
    const remove = button("Delete", () => void this.#delete(() => cache.remove(id)), "quiet");
    const title = shortName(name);
    remove.ariaLabel = `Delete: ${title}`;
    const state = [formatBytes(bytes), ...(weights === "f8" ? ["FP8"] : weights === "i8" ? ["8-bit integers"] : []), ...(complete ? [] : ["in part: loading it goes on from there"])];
    return element("li", { className: "stored-item", title: url }, [
      element("div", { className: "stored-head" }, [
        element("strong", { textContent: title }), element("span", { className: "hint", textContent: state.join(", ") }), remove,
      ]),
    ]);
  }

  /** @param {string} url */
  #pin(url) {
    const title = shortName(url);
    const forget = button("Forget", () => void this.#delete(() => cache.forget(url)), "quiet");
    forget.ariaLabel = `Forget the first download: ${title}`;
    return element("li", { className: "stored-item", title: url }, [
      element("div", { className: "stored-head" }, [element("strong", { textContent: title }), element("span", { className: "hint" }), forget]),
    ]);
  }

  /** @param {() => Promise<unknown>} work */
  async #delete(work) {
    try {
      await work();
    } catch (thrown) {
      this.#onFailed(thrown);
    }
    await this.refresh();
  }
}
