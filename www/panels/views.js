/** The two views of the page, by its address: the chat, and at #merge the merge. */

import { byId } from "./dom.js";

/** @typedef {"chat" | "merge"} View */

export class Views {
  #events;
  /** @type {View} */
  #current = "chat";

  /** @param {{ merge: { open: () => void, close: () => void } }} events */
  constructor(events) {
    this.#events = events;
    addEventListener("hashchange", () => this.#follow());
  }

  start() {
    this.#follow();
  }

  /** @param {View} view */
  show(view) {
    if (view === this.#current) return;
    location.hash = view;
    this.#follow();
  }

  #follow() {
    // The skip link leads to #merge-view or #prompt.
    const view = location.hash.startsWith("#merge") ? "merge" : "chat";
    document.body.dataset.view = view;
    byId("chat-view", HTMLElement).hidden = view !== "chat";
    byId("merge-view", HTMLElement).hidden = view !== "merge";
    byId("skip", HTMLAnchorElement).href = view === "merge" ? "#merge-view" : "#prompt";
    for (const each of /** @type {const} */ (["chat", "merge"])) {
      const link = byId(`to-view-${each}`, HTMLAnchorElement);
      if (each === view) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (view === this.#current) return;
    this.#current = view;
    this.#events.merge[view === "merge" ? "open" : "close"]();
  }
}
