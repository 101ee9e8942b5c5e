/** The conversation: log, composer, stop, regenerate, copy. */

import { BiseError } from "../pkg/index.js";
import { ask } from "./ask.js";
import { button, byId, element } from "./dom.js";
import { Rate, formatSpeed } from "./format.js";
import { welcome } from "./openings.js";

/** @typedef {import("../pkg/index.js").Engine} Engine */
/** @typedef {{ role: "user" | "assistant", content: string }} Message */

/**
 * @typedef {object} Surroundings
 * @property {import("./status.js").StatusPanel} status
 * @property {import("./sampling.js").SamplingPanel} sampling
 * @property {import("./message.js").MessagePanel} message
 * @property {() => void} lost the device went, and the model with it
 * @property {() => void} reload loads the model again
 */

export class ChatPanel {
  #around;
  #log = byId("log", HTMLElement);
  #scroller = /** @type {HTMLElement} */ (this.#log.parentElement);
  #empty = byId("empty", HTMLElement);
  #composer = byId("composer", HTMLFormElement);
  #prompt = byId("prompt", HTMLTextAreaElement);
  #send = byId("send", HTMLButtonElement);
  #stop = byId("stop", HTMLButtonElement);
  #newChat = byId("new-chat", HTMLButtonElement);
  #announcer = byId("announcer", HTMLElement);
  /** @type {Engine | null} */
  #engine = null;
  #name = "";
  /** @type {Message[]} */
  #messages = [];
  /** @type {AbortController | null} */
  #running = null;
  /** The last reply's end: resolved when nothing runs. */
  #ended = Promise.resolve();
  /** Tokens of the conversation, as far as they are known, and before the last question and reply. */
  #used = 0;
  #usedBefore = 0;
  #full = false;
  /** Whether the reply that is stopped will be asked for again. */
  #interrupted = false;

  /** @param {Surroundings} around */
  constructor(around) {
    this.#around = around;
    this.#composer.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
    this.#prompt.addEventListener("input", () => this.#refresh());
    this.#stop.addEventListener("click", () => this.stop());
    this.#newChat.addEventListener("click", () => void this.reset());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#running) this.stop();
    });
  }

  /**
   * @param {Engine | null} engine
   * @param {string} name
   * @param {boolean} [goesOn] whether the conversation stays
   */
  async attach(engine, name, goesOn = false) {
    this.stop();
    await this.#ended;
    this.#engine = engine;
    this.#name = name;
    this.#around.status.model(engine?.info ?? null);
    if (!goesOn) return this.reset();
    if (engine) this.#use(this.#used);
    if (this.#messages.length === 0) this.#showWelcome();
    this.#refresh();
  }

  /** Forgets the conversation. */
  async reset() {
    this.stop();
    await this.#ended;
    this.#messages = [];
    this.#log.replaceChildren();
    this.#around.message.clear();
    this.#use(0);
    this.#around.status.speed(null);
    this.#showWelcome();
    this.#refresh();
    if (this.#engine && matchMedia("(hover: hover)").matches) this.#prompt.focus();
  }

  stop() {
    this.#running?.abort();
  }

  /** Stops the reply that runs, without giving its question back: {@link again} is to follow. */
  async interrupt() {
    this.#interrupted = true;
    this.stop();
    await this.#ended;
    this.#interrupted = false;
  }

  /** Answers the last question once more, if there is one. */
  again() {
    if (this.#messages.length > 0) this.#regenerate();
  }

  /** @param {number} tokens of the context that are taken */
  #use(tokens) {
    const limit = this.#engine?.info.contextLength ?? 0;
    this.#used = Math.min(tokens, limit);
    this.#full = limit > 0 && tokens >= limit - 8;
    this.#around.status.context(this.#used, limit);
  }

  #submit() {
    const text = this.#prompt.value.trim();
    if (text === "" || this.#engine === null || this.#running || this.#full) return;
    this.#ask(text);
  }

  /** @param {string} text */
  #ask(text) {
    const options = this.#around.sampling.read();
    if (options === null) return;
    this.#prompt.value = "";
    this.#dropUnanswered();
    this.#messages.push({ role: "user", content: text });
    this.#log.append(element("article", { className: "turn user", ariaLabel: "You", textContent: text }));
    this.#usedBefore = this.#used;
    this.#ended = this.#reply(options);
  }

  /** Takes back a message without a reply, since templates want the roles to alternate. */
  #dropUnanswered() {
    if (this.#messages.at(-1)?.role !== "user") return "";
    this.#log.lastElementChild?.remove();
    return this.#messages.pop()?.content ?? "";
  }

  #regenerate() {
    const options = this.#around.sampling.read();
    if (options === null || this.#running || this.#engine === null) return;
    if (this.#messages.at(-1)?.role === "assistant") this.#messages.pop();
    if (this.#log.lastElementChild?.classList.contains("assistant")) this.#log.lastElementChild.remove();
    this.#use(this.#usedBefore);
    this.#ended = this.#reply(options);
  }

  /** @param {Record<string, number | string[]>} options */
  async #reply(options) {
    const engine = this.#engine;
    if (engine === null) return;
    const controller = new AbortController();
    this.#running = controller;
    this.#around.message.clear();
    for (const foot of this.#log.querySelectorAll(".turn-foot")) foot.remove();
    const text = element("div", { className: "text" });
    const turn = element("article", { className: "turn assistant running", ariaLabel: this.#name }, [text]);
    this.#log.append(turn);
    this.#refresh();
    this.#scroll(true);
    this.#announcer.textContent = `${this.#name} is writing.`;
    let note = "";
    let failure;
    try {
      note = await this.#stream(engine, options, controller.signal, text);
    } catch (thrown) {
      if (thrown instanceof BiseError && thrown.code === "aborted") note = "stopped";
      else failure = thrown;
    }
    this.#running = null;
    // A reply without a word is taken back.
    if (text.textContent === "") this.#use(this.#usedBefore);
    turn.classList.remove("running");
    this.#finish(turn, text.textContent ?? "", note, failure);
  }

  /**
   * Streams one reply into `text`.
   *
   * @param {Engine} engine
   * @param {Record<string, number | string[]>} options
   * @param {AbortSignal} signal
   * @param {HTMLElement} text
   */
  async #stream(engine, options, signal, text) {
    const { status } = this.#around;
    const rate = new Rate(3000);
    let note = "";
    for await (const { piece, usage, timings } of ask(engine, this.#messages, options, signal)) {
      if (piece !== "") {
        const follow = this.#atEnd();
        text.append(piece);
        if (follow) this.#scroll(false);
      }
      if (usage) this.#use(usage.total_tokens);
      if (timings) {
        note = `${timings.completion_tokens} tokens, ${formatSpeed(timings.tokens_per_second)}`;
        status.speed(timings.tokens_per_second);
      } else if (usage) {
        const speed = rate.add(usage.completion_tokens, performance.now());
        if (speed > 0) status.speed(speed);
      }
    }
    return note;
  }

  /**
   * @param {HTMLElement} turn
   * @param {string} text
   * @param {string} note
   * @param {unknown} failure
   */
  #finish(turn, text, note, failure) {
    if (text !== "") this.#messages.push({ role: "assistant", content: text });
    else turn.remove();
    // Stopped before the first word: the message goes back to where it was written.
    if (text === "" && note === "stopped" && !this.#interrupted) this.#prompt.value ||= this.#dropUnanswered();
    if (failure !== undefined) {
      this.#around.status.speed(null);
      this.#announcer.textContent = "";
      this.#fail(failure);
    } else {
      this.#announcer.textContent = note === "stopped" ? "Stopped." : `${this.#name}: ${text}`;
    }
    if (text !== "") this.#foot(turn, text, note);
    if (this.#full) {
      const limit = this.#engine?.info.contextLength ?? 0;
      this.#around.message.show("The conversation is full", [`This model remembers ${limit} tokens, and they are used up. Start a new chat to go on.`], [{ label: "New chat", run: () => void this.reset() }]);
    }
    this.#refresh();
    this.#scroll(this.#full || failure !== undefined);
    if (document.activeElement === document.body && matchMedia("(hover: hover)").matches) this.#prompt.focus();
  }

  /** @param {unknown} failure */
  #fail(failure) {
    if (failure instanceof BiseError && failure.code === "device-lost") {
      this.#engine = null;
      this.#around.status.model(null);
      this.#around.lost();
    }
    const again = { label: "Try again", run: () => this.#regenerate() };
    const fresh = { label: "New chat", run: () => void this.reset() };
    const reload = { label: "Load the model again", run: () => this.#around.reload() };
    this.#around.message.error(failure, this.#engine === null ? [reload] : [again, fresh]);
  }

  /**
   * @param {HTMLElement} turn
   * @param {string} text
   * @param {string} note
   */
  #foot(turn, text, note) {
    const copy = button("Copy", () => {
      navigator.clipboard.writeText(text).then(
        () => { copy.textContent = "Copied"; },
        () => { copy.textContent = "Select the text to copy it"; },
      );
      setTimeout(() => { copy.textContent = "Copy"; }, 2000);
    }, "quiet");
    // Without a model there is nothing to ask again.
    const again = this.#engine === null ? [] : [button("Regenerate", () => this.#regenerate(), "quiet")];
    turn.append(element("div", { className: "turn-foot" }, [copy, ...again, element("span", { textContent: note })]));
  }

  #showWelcome() {
    this.#empty.hidden = this.#engine === null;
    if (this.#engine === null) return;
    const { title, text, openings } = welcome(this.#name);
    byId("empty-title", HTMLElement).textContent = title;
    byId("empty-text", HTMLElement).textContent = text;
    byId("openings", HTMLElement).replaceChildren(
      ...openings.map((opening) => element("li", {}, [button(opening, () => this.#ask(opening))])),
    );
  }

  #refresh() {
    const ready = this.#engine !== null;
    this.#prompt.disabled = !ready;
    this.#send.hidden = this.#running !== null;
    this.#stop.hidden = this.#running === null;
    this.#send.disabled = !ready || this.#full || this.#prompt.value.trim() === "";
    this.#newChat.disabled = !ready || this.#messages.length === 0;
    if (this.#messages.length > 0) this.#empty.hidden = true;
  }

  /** Where the conversation scrolls: a column of its own, or the page on narrow screens. */
  #pane() {
    return getComputedStyle(this.#scroller).overflowY === "auto" ? this.#scroller : document.documentElement;
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.#pane();
    return scrollHeight - scrollTop - clientHeight < 120;
  }

  /** @param {boolean} always */
  #scroll(always) {
    if (always || this.#atEnd()) this.#pane().scrollTop = this.#pane().scrollHeight;
  }
}
