/** One prompt for the parents and the merge, side by side. */

import { BiseError, Engine } from "../../pkg/index.js";
import { ask } from "../ask.js";
import { byId, element } from "../dom.js";
import { formatSpeed } from "../format.js";

/** @typedef {import("../../pkg/index.js").Model} Model */
/** @typedef {import("../../pkg/index.js").Engine} LoadedEngine */
/** @typedef {{ name: string, role: string, model: Model, isMerge: boolean }} Subject */
/** @typedef {{ subject: Subject, status: HTMLElement, text: HTMLElement }} Column */

/**
 * @typedef {object} Surroundings
 * @property {import("../sampling.js").SamplingPanel} sampling
 * @property {() => { subjects: Subject[], areSmall: boolean } | null} subjects null while the recipe has an error
 * @property {() => LoadedEngine | null} merged the chat's engine, if it runs this very merge
 * @property {() => Promise<void>} makeRoom ends the chat's engine
 * @property {() => ReturnType<import("../backend.js").BackendPanel["options"]>} backend where they run
 */

export class ComparePanel {
  #around;
  #form = byId("compare-form", HTMLFormElement);
  #prompt = byId("compare-prompt", HTMLTextAreaElement);
  #start = byId("compare-start", HTMLButtonElement);
  #stop = byId("compare-stop", HTMLButtonElement);
  #note = byId("compare-note", HTMLElement);
  #columns = byId("compare-columns", HTMLElement);
  /** Engines that stay, by what they run. @type {Map<string, LoadedEngine>} */
  #engines = new Map();
  /** @type {AbortController | null} */
  #running = null;

  /** @param {Surroundings} around */
  constructor(around) {
    this.#around = around;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#run();
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      void this.#run();
    });
    this.#stop.addEventListener("click", () => this.stop());
    this.#refresh();
  }

  /** Says what a comparison will do, for the recipe as it stands. */
  update() {
    const plan = this.#around.subjects();
    this.#start.disabled = plan === null;
    if (plan === null) this.#note.textContent = "The recipe has an error.";
    else if (plan.areSmall) this.#note.textContent = "All at once, each in an engine of its own. Settings are those of the chat’s Sampling; unless set there, the likeliest token is taken.";
    else this.#note.textContent = "One after the other, to save memory: each is loaded whole, asked, and put away again, and the chat’s model makes room. From a hub each load is a download, unless the browser still has it.";
  }

  stop() {
    this.#running?.abort();
  }

  /** Ends the engines that stay. */
  release() {
    this.stop();
    for (const engine of this.#engines.values()) void engine.dispose();
    this.#engines.clear();
  }

  async #run() {
    const plan = this.#around.subjects();
    const prompt = this.#prompt.value.trim();
    const options = this.#around.sampling.read();
    if (this.#running || plan === null || prompt === "" || options === null || this.#start.disabled) return;
    const controller = new AbortController();
    this.#running = controller;
    this.#refresh();
    const columns = plan.subjects.map(newColumn);
    this.#columns.replaceChildren(...columns.map(({ subject, status, text }) => element("article", { className: subject.isMerge ? "column merged" : "column", ariaLabel: subject.role }, [
      element("h4", { textContent: subject.role }), element("p", { className: "hint", textContent: subject.name }), text, status,
    ])));
    const answer = (/** @type {Column} */ column, /** @type {() => Promise<LoadedEngine>} */ load) => (
      answerInto(column, load, prompt, { temperature: 0, ...options }, controller.signal)
    );
    if (plan.areSmall) await Promise.all(columns.map((column) => answer(column, () => this.#keptEngine(column, controller.signal))));
    else await this.#oneByOne(columns, answer, controller.signal);
    this.#running = null;
    this.#refresh();
  }

  /**
   * @param {Column} column
   * @param {AbortSignal} signal
   */
  async #keptEngine(column, signal) {
    const { model } = column.subject;
    const backend = this.#around.backend();
    const key = JSON.stringify(model) + backend.backend;
    const kept = this.#engines.get(key);
    if (kept) return kept;
    // Of merges only the last one stays.
    for (const [old, engine] of this.#engines) {
      if (!column.subject.isMerge || !old.startsWith("{")) continue;
      this.#engines.delete(old);
      void engine.dispose();
    }
    const engine = await load(column, backend, signal);
    this.#engines.set(key, engine);
    return engine;
  }

  /**
   * Large models: one engine at a time. A merge that the chat already holds is asked first.
   *
   * @param {Column[]} columns
   * @param {(column: Column, load: () => Promise<LoadedEngine>) => Promise<void>} answer
   * @param {AbortSignal} signal
   */
  async #oneByOne(columns, answer, signal) {
    const loaded = this.#around.merged();
    const merged = columns.find(({ subject }) => subject.isMerge);
    for (const { status } of columns) status.textContent = "waits for its turn";
    if (loaded && merged) await answer(merged, async () => loaded);
    await this.#around.makeRoom();
    for (const column of columns) {
      if (loaded && column === merged) continue;
      /** @type {LoadedEngine | null} */
      let engine = null;
      await answer(column, async () => {
        engine = await load(column, this.#around.backend(), signal);
        return engine;
      });
      await /** @type {LoadedEngine | null} */ (engine)?.dispose();
    }
  }

  #refresh() {
    this.#start.hidden = this.#running !== null;
    this.#stop.hidden = this.#running === null;
  }
}

/** @param {Subject} subject */
function newColumn(subject) {
  const status = element("p", { className: "hint column-status" });
  status.setAttribute("role", "status");
  return { subject, status, text: element("div", { className: "text" }) };
}

/**
 * @param {Column} column
 * @param {{ backend: "auto" | "webgpu" | "cpu" }} backend
 * @param {AbortSignal} signal
 */
async function load({ subject, status }, backend, signal) {
  status.textContent = "loading";
  return Engine.load(subject.model, {
    ...backend,
    signal,
    onProgress: ({ phase, done, total }) => {
      const share = total > 0 ? ` ${Math.round((100 * done) / total)} %` : "";
      status.textContent = phase === "shaders" ? `compiling shaders, ${done} of ${total}` : `loading${share}`;
    },
  });
}

/**
 * @param {Column} column
 * @param {() => Promise<LoadedEngine>} load
 * @param {string} prompt
 * @param {Record<string, number | string[]>} options
 * @param {AbortSignal} signal
 */
async function answerInto({ status, text }, load, prompt, options, signal) {
  try {
    signal.throwIfAborted();
    const engine = await load();
    status.textContent = "writing";
    for await (const { piece, timings } of ask(engine, [{ role: "user", content: prompt }], options, signal)) {
      text.append(piece);
      if (timings) status.textContent = `${timings.completion_tokens} tokens, ${formatSpeed(timings.tokens_per_second)}`;
    }
  } catch (thrown) {
    const isStop = signal.aborted || (thrown instanceof BiseError && thrown.code === "aborted");
    status.textContent = isStop ? "stopped" : thrown instanceof Error ? thrown.message : String(thrown);
    status.classList.toggle("failed", !isStop);
    if (!isStop && !(thrown instanceof BiseError)) console.error(thrown);
  }
}
