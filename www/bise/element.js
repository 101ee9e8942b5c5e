/**
 * `<bise-chat model="owner/name" weights="f8" backend="auto">`: a small chat to embed in any page.
 *
 * A model may be gigabytes, so it loads when the visitor asks for it; with the attribute `autoload`,
 * at once. `hub-url` is Engine.load's hubUrl, and `kv-cache` its kvCache.
 */

import { Engine } from "./engine.js";
import { BiseError } from "./errors.js";

const STYLE = `
:host { display: flex; flex-direction: column; gap: .75rem; height: 28rem; padding: 1rem; box-sizing: border-box;
  font: 1rem/1.5 system-ui, sans-serif; color: CanvasText; background: Canvas; color-scheme: light dark;
  border: 1px solid color-mix(in srgb, currentColor 20%, transparent); border-radius: 10px; }
:host([hidden]), [hidden] { display: none !important; }
#log { flex: 1; min-height: 0; overflow-y: auto; display: flex; flex-direction: column; gap: .75rem; overflow-wrap: anywhere; white-space: pre-wrap; }
.user { align-self: flex-end; max-width: 85%; padding: .4rem .8rem; border-radius: 12px; background: color-mix(in srgb, currentColor 10%, transparent); }
.note { font-size: .875rem; opacity: .8; }
form { display: flex; gap: .5rem; }
button, textarea { font: inherit; color: inherit; padding: .5rem .8rem; border-radius: 8px; background: transparent;
  border: 1px solid color-mix(in srgb, currentColor 50%, transparent); }
button { cursor: pointer; } button:disabled { cursor: default; opacity: .5; }
textarea { flex: 1; min-width: 0; resize: none; }
:focus-visible { outline: 2px solid Highlight; outline-offset: 2px; }
progress { width: 100%; }
`;

const MARKUP = `<style>${STYLE}</style>
<div id="log" role="log" aria-label="Conversation" aria-live="off" tabindex="0"></div>
<progress hidden aria-label="Loading the model"></progress>
<div class="note" role="status"></div>
<button type="button" id="load">Load the model</button>
<form hidden>
  <textarea rows="1" aria-label="Your message" placeholder="Write a message"></textarea>
  <button type="submit">Send</button>
</form>`;

export class BiseChat extends HTMLElement {
  /** @type {Engine | null} */
  #engine = null;
  /** Ends the load or the reply that runs. @type {AbortController | null} */
  #running = null;
  /** @type {{ role: string, content: string }[]} */
  #messages = [];
  #root = this.attachShadow({ mode: "open" });

  constructor() {
    super();
    this.#root.innerHTML = MARKUP;
    this.#part("#load").addEventListener("click", () => void this.load());
    this.#part("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#running) this.#running.abort();
      else void this.#send();
    });
    this.#part("textarea").addEventListener("keydown", (event) => {
      const { key, shiftKey, isComposing } = /** @type {KeyboardEvent} */ (event);
      if (key === "Escape") this.#running?.abort();
      if (key !== "Enter" || shiftKey || isComposing || this.#running) return;
      event.preventDefault();
      void this.#send();
    });
  }

  connectedCallback() {
    if (this.hasAttribute("autoload") && this.#engine === null && this.#running === null) void this.load();
  }

  disconnectedCallback() {
    // A move within the page disconnects, too: only one that lasts ends the engine.
    queueMicrotask(() => {
      if (this.isConnected) return;
      // What runs ends in its own time, and finds that it runs no more: the element may be back by then.
      this.#running?.abort();
      this.#running = null;
      this.#showRunning();
      this.#note("");
      void this.#engine?.dispose();
      this.#engine = null;
      this.#showLoaded(false);
    });
  }

  /** Loads the model of the attributes; failures are shown in the element. */
  async load() {
    if (this.#running) return;
    const controller = new AbortController();
    this.#running = controller;
    const progress = /** @type {HTMLProgressElement} */ (this.#part("progress"));
    progress.removeAttribute("value");
    this.#part("#load").hidden = true;
    this.#showRunning();
    this.#note(`Loading ${this.getAttribute("model")}`);
    /** @type {Engine | null} */
    let engine = null;
    let failure;
    try {
      engine = await Engine.load(this.getAttribute("model") ?? "", {
        // What is no weight mode and no backend is refused there, by name.
        ...(this.hasAttribute("weights") ? { weights: /** @type {"f8"} */ (this.getAttribute("weights")) } : {}),
        ...(this.hasAttribute("kv-cache") ? { kvCache: /** @type {"f8"} */ (this.getAttribute("kv-cache")) } : {}),
        backend: /** @type {"auto"} */ (this.getAttribute("backend") ?? "auto"),
        ...(this.hasAttribute("hub-url") ? { hubUrl: this.getAttribute("hub-url") ?? "" } : {}),
        onProgress: ({ done, total }) => {
          if (total > 0) progress.value = done / total;
        },
        signal: controller.signal,
      });
    } catch (thrown) {
      failure = thrown;
    }
    if (this.#running !== controller) {
      void engine?.dispose();
      return;
    }
    this.#engine = engine;
    this.#running = null;
    this.#showRunning();
    // Until something is asked: why it is slower than the visitor may know it.
    if (engine) this.#note(engine.info.backend === "cpu" && engine.info.backendReason !== null ? `Runs on the processor, since ${engine.info.backendReason}.` : "");
    else this.#fail(failure);
    this.#showLoaded(engine !== null);
  }

  async #send() {
    const engine = this.#engine;
    const input = /** @type {HTMLTextAreaElement} */ (this.#part("textarea"));
    const content = input.value.trim();
    if (engine === null || content === "") return;
    input.value = "";
    this.#note("");
    this.#messages.push({ role: "user", content });
    this.#append("user").textContent = content;
    const reply = this.#append("assistant");
    const controller = new AbortController();
    this.#running = controller;
    this.#showRunning();
    let failure;
    try {
      const stream = await engine.chat.completions.create({ messages: this.#messages, stream: true, signal: controller.signal });
      for await (const { choices } of stream) {
        reply.append(choices[0]?.delta.content ?? "");
        this.#part("#log").scrollTop = this.#part("#log").scrollHeight;
      }
    } catch (thrown) {
      failure = thrown;
    }
    const text = reply.textContent ?? "";
    if (text !== "") this.#messages.push({ role: "assistant", content: text });
    else {
      // A question without an answer may not stay: templates want the roles to alternate.
      this.#messages.pop();
      reply.remove();
    }
    if (this.#running !== controller) return;
    this.#running = null;
    this.#showRunning();
    if (failure !== undefined) this.#fail(failure);
  }

  /** @param {unknown} thrown */
  #fail(thrown) {
    const code = thrown instanceof BiseError ? thrown.code : null;
    this.#note(code === "aborted" ? "Stopped." : String(thrown instanceof Error ? thrown.message : thrown));
    if (code === "device-lost") {
      this.#engine = null;
      this.#showLoaded(false);
    }
  }

  #showRunning() {
    this.#part("progress").hidden = this.#running === null || this.#engine !== null;
    this.#part("form button").textContent = this.#running && this.#engine ? "Stop" : "Send";
  }

  /** @param {boolean} loaded */
  #showLoaded(loaded) {
    this.#part("form").hidden = !loaded;
    this.#part("#load").hidden = loaded;
  }

  /** @param {string} text */
  #note(text) {
    this.#part(".note").textContent = text;
  }

  /** @param {"user" | "assistant"} role */
  #append(role) {
    const turn = document.createElement("div");
    turn.className = role;
    this.#part("#log").append(turn);
    return turn;
  }

  /**
   * @param {string} selector
   * @returns {HTMLElement}
   */
  #part(selector) {
    return /** @type {HTMLElement} */ (this.#root.querySelector(selector));
  }
}

if (customElements.get("bise-chat") === undefined) customElements.define("bise-chat", BiseChat);
