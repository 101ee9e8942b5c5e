/** The merge view: presets, parents, curves and recipe in step, the run, its report, and what comes after. */

import { BiseError } from "../pkg/index.js";
import { button, byId, element } from "./dom.js";
import { downloadNote, formatBytes } from "./format.js";
import { MessagePanel } from "./message.js";
import { CURVES, fromOutline, layersOf, otherOf, toYaml } from "./merge/blend.js";
import { ComparePanel } from "./merge/compare.js";
import { CurveEditor } from "./merge/curve.js";
import { ParentsEditor } from "./merge/parents.js";
import { PRESETS } from "./merge/presets.js";
import { RecipeEditor } from "./merge/recipe.js";
import { ReportPanel } from "./merge/report.js";
import { RunPanel } from "./merge/run.js";
import { StoredPanel } from "./merge/storage.js";

/** @typedef {import("./merge/blend.js").Blend} Blend */
/** @typedef {import("./merge/run.js").Result} Result */
/** @typedef {import("../pkg/index.js").RecipeOutline} RecipeOutline */
/** @typedef {import("../pkg/index.js").Engine} Engine */

/**
 * @typedef {object} Surroundings
 * @property {import("./sampling.js").SamplingPanel} sampling
 * @property {import("./models.js").ModelsPanel} models
 * @property {import("./backend.js").BackendPanel} backend
 * @property {() => { engine: Engine, model: unknown } | null} loaded what the chat runs
 * @property {() => Promise<void>} unload ends it
 * @property {() => void} showChat
 */

const INITIAL = "tale-x-case";

export class MergePanel {
  #around;
  #message = new MessagePanel("merge-message");
  #presets = byId("presets", HTMLElement);
  #curves = byId("curves", HTMLElement);
  #curvesNote = byId("curves-note", HTMLElement);
  #axis = byId("curves-axis", HTMLElement);
  #done = byId("run-done", HTMLElement);
  #recipe = new RecipeEditor((outline) => this.#read(outline));
  #parents = new ParentsEditor((index, name) => this.#rename(index, name), (thrown) => this.#message.error(thrown, []));
  #report = new ReportPanel();
  /** @type {Map<string, CurveEditor>} */
  #editors = new Map();
  #run;
  #compare;
  #stored;
  /** What the curves show; null: the recipe is edited as text only. @type {Blend | null} */
  #blend = null;
  /** @type {RecipeOutline | null} */
  #outline = null;
  /** The last merge that ended well. @type {Result | null} */
  #result = null;
  /** The model as which the chat has it. @type {unknown} */
  #inChat = null;
  #isOpen = false;

  /** @param {Surroundings} around */
  constructor(around) {
    this.#around = around;
    for (const { id, title, text } of PRESETS) this.#presets.append(this.#preset(id, title, text));
    for (const curve of CURVES) {
      const editor = new CurveEditor(curve, (anchors) => this.#move(curve.key, anchors));
      this.#editors.set(curve.key, editor);
      this.#curves.append(editor.element);
    }
    this.#run = new RunPanel({
      job: () => this.#job(),
      loadIntoChat: (job, watch) => this.#loadIntoChat(job, watch),
      cancelLoad: () => around.models.cancel(),
      onStart: () => this.#clear(),
      onTensor: (tensor) => this.#report.add(tensor),
      onDone: (result) => this.#finish(result),
      onStopped: (destination) => this.#message.show("Stopped", [
        destination === "chat" ? "The chat has no model now: choose one there, or merge again." : "Nothing of it was kept.",
      ], []),
      onFailed: (thrown) => this.#fail(thrown),
    });
    this.#compare = new ComparePanel({
      sampling: around.sampling,
      subjects: () => this.#subjects(),
      merged: () => (this.#isCurrentInChat() ? around.loaded()?.engine ?? null : null),
      makeRoom: () => around.unload(),
      backend: () => around.backend.options(),
    });
    this.#stored = new StoredPanel((directory) => this.#chatWith(directory, directory.name), (thrown) => this.#message.error(thrown, []));
  }

  /** Comes into view; nothing is loaded before the first time. */
  open() {
    void this.#stored.refresh();
    if (this.#isOpen) return;
    this.#isOpen = true;
    this.#usePreset(INITIAL);
  }

  /** Brings what this browser keeps into sight. */
  async showStored() {
    await this.#stored.refresh();
    byId("stored", HTMLElement).scrollIntoView({ block: "start" });
  }

  /** Leaves the view, and with it the engines that only this view needs. */
  close() {
    this.#compare.release();
  }

  /**
   * @param {string} id
   * @param {string} title
   * @param {string} text
   */
  #preset(id, title, text) {
    const choice = button("", () => this.#usePreset(id), "choice");
    choice.dataset.preset = id;
    choice.append(element("strong", { textContent: title }), element("span", { textContent: text }));
    return choice;
  }

  /** @param {string} id */
  #usePreset(id) {
    const preset = PRESETS.find((each) => each.id === id);
    if (preset === undefined) return;
    this.#recipe.write(preset.recipe);
    void this.#recipe.read();
  }

  /**
   * The recipe was read: the curves and the parents follow its text.
   *
   * @param {RecipeOutline | null} outline
   */
  #read(outline) {
    const text = this.#recipe.value;
    for (const choice of this.#presets.querySelectorAll("button")) {
      choice.setAttribute("aria-pressed", String(PRESETS.find(({ id }) => id === choice.dataset.preset)?.recipe === text));
    }
    this.#outline = outline;
    // While the text has an error, moving an anchor would write over what is being typed.
    this.#curves.inert = outline === null;
    if (this.#result?.job.recipe !== text) this.#done.hidden = true;
    if (outline !== null) {
      const shown = fromOutline(outline);
      this.#blend = "blend" in shown ? shown.blend : null;
      this.#curves.hidden = this.#blend === null;
      this.#axis.hidden = this.#blend === null;
      this.#curvesNote.textContent = "blend" in shown
        ? this.#curvesHint()
        : `This recipe is edited as text only: ${shown.reason}. Curves show a SLERP of two models in one slice.`;
      this.#showBlend();
      this.#showParents(outline);
    }
    this.#refresh();
  }

  #curvesHint() {
    const comments = /^\s*#|\s#/m.test(this.#recipe.value) ? " Moving an anchor writes the recipe anew, without its comments." : "";
    return `Drag the anchors, or move them with the arrow keys.${comments}`;
  }

  #showBlend() {
    const blend = this.#blend;
    if (blend === null) return;
    const [base, other] = [shortName(blend.base), shortName(otherOf(blend))];
    this.#axis.textContent = `t = 0 is ${base}, t = 1 is ${other}`;
    for (const { key } of CURVES) {
      const own = blend[key];
      this.#editors.get(key)?.show({ anchors: own ?? blend.rest, follows: own === null, layers: layersOf(blend), base, other });
    }
  }

  /** @param {RecipeOutline} outline */
  #showParents(outline) {
    const blend = this.#blend;
    if (blend !== null) {
      this.#parents.show([{ name: blend.base, role: "Base, t = 0" }, { name: otherOf(blend), role: "Other, t = 1" }], true);
    } else {
      this.#parents.show(outline.models.map((name, i) => ({ name, role: `Model ${i + 1}` })), false);
    }
  }

  /**
   * An anchor moved: the text follows.
   *
   * @param {"attention" | "mlp" | "rest"} key
   * @param {number[] | null} anchors
   */
  #move(key, anchors) {
    if (this.#blend === null || (key === "rest" && anchors === null)) return;
    this.#blend = { ...this.#blend, [key]: anchors };
    this.#write();
  }

  /**
   * A parent has another name, or (index -1) lies elsewhere.
   *
   * @param {number} index 0: the base
   * @param {string} name
   */
  #rename(index, name) {
    const blend = this.#blend;
    if (index >= 0 && blend !== null) {
      const old = index === 0 ? blend.base : otherOf(blend);
      const sides = /** @type {Blend["sides"]} */ (blend.sides.map((side) => (side.model === old ? { ...side, model: name } : side)));
      const { tokenizer } = blend;
      const renamed = typeof tokenizer === "object" && tokenizer.model === old ? { model: name } : tokenizer;
      this.#blend = { ...blend, sides, base: index === 0 ? name : blend.base, tokenizer: renamed };
      this.#write();
    }
    if (this.#outline !== null) this.#showParents(this.#outline);
    this.#refresh();
  }

  #write() {
    if (this.#blend === null) return;
    this.#recipe.write(toYaml(this.#blend));
    this.#showBlend();
    void this.#recipe.read();
  }

  #refresh() {
    const isReady = this.#outline !== null;
    const download = this.#parents.download();
    const bytes = download.bytes.reduce((sum, each) => sum + each, 0);
    const unknown = download.unknown > 0 ? (bytes > 0 ? " and more" : "") : "";
    this.#run.update(isReady, bytes > 0 ? `Merge: download ${formatBytes(bytes)}${unknown}` : "Merge");
    const note = byId("download-note", HTMLElement);
    note.textContent = isReady ? downloadNote(download) : "";
    note.hidden = note.textContent === "";
    this.#compare.update();
  }

  #name() {
    return this.#parents.each().map(({ name }) => shortName(name)).join(" × ") || "merge";
  }

  #job() {
    if (this.#outline === null) return null;
    return { recipe: this.#recipe.value, models: this.#parents.models(), name: this.#name() };
  }

  #subjects() {
    const job = this.#job();
    if (job === null) return null;
    const parents = this.#parents.each().map(({ name, model }) => ({ name, role: shortName(name), model, isMerge: false }));
    const { recipe, models } = job;
    // A merge that was saved is not done again.
    const saved = this.#result?.job.recipe === recipe ? this.#result.directory : null;
    const merge = { name: saved ? "the saved merge" : "merged while it loads", role: "The merge", model: saved ?? { recipe, models }, isMerge: true };
    return { subjects: [...parents, merge], areSmall: this.#parents.areEmbedded() };
  }

  #isCurrentInChat() {
    return this.#inChat !== null && this.#around.loaded()?.model === this.#inChat && this.#result?.job.recipe === this.#recipe.value;
  }

  /**
   * @param {import("./merge/run.js").Job} job
   * @param {import("./models.js").Watch} watch
   */
  async #loadIntoChat({ recipe, models, name }, watch) {
    this.#compare.release();
    const model = { recipe, models };
    const isLoaded = await this.#around.models.load(model, name, watch);
    if (!isLoaded) return /** @type {const} */ (false);
    this.#inChat = model;
    return this.#around.loaded()?.engine.mergeReport ?? null;
  }

  #clear() {
    this.#message.clear();
    this.#result = null;
    this.#report.clear();
    this.#done.hidden = true;
  }

  /** @param {Result} result */
  #finish(result) {
    this.#result = result;
    const names = this.#blend ? [shortName(this.#blend.base), shortName(otherOf(this.#blend))] : [];
    if (result.report) this.#report.finish(result.report, result.job.name, names);
    const { directory, destination, job } = result;
    const actions = [];
    if (destination === "chat") {
      actions.push(button("Chat with it", () => this.#around.showChat(), "primary"));
      actions.push(button("Save it", () => this.#run.choose("storage")));
    } else if (directory !== null) {
      actions.push(button("Chat with it", () => this.#chatWith(directory, job.name), "primary"));
    }
    actions.push(button("Compare with its parents", () => byId("compare-prompt", HTMLTextAreaElement).focus()));
    const checkpoint = "an ordinary Hugging Face checkpoint, with the recipe in mergekit_config.yml.";
    const hints = {
      chat: "Nothing was stored: saving merges once more, into files.",
      download: `Unpack it: the folder in it is ${checkpoint}`,
      folder: `It is ${checkpoint}`,
      storage: `It is ${checkpoint}`,
    };
    this.#done.replaceChildren(
      element("h3", { textContent: destination === "chat" ? "Merged, and ready to chat" : `Saved as ${result.label}` }),
      element("p", { className: "hint", textContent: hints[destination] }),
      element("div", { className: "actions" }, actions),
    );
    this.#done.hidden = false;
    this.#done.scrollIntoView({ block: "nearest" });
    this.#compare.update();
    void this.#stored.refresh();
  }

  /** @param {unknown} thrown */
  #fail(thrown) {
    // Some errors of a recipe show only beside its models: they have their place in the text all the same.
    if (thrown instanceof BiseError && thrown.code === "bad-recipe") this.#recipe.fail(thrown);
    const isMissing = thrown instanceof BiseError && thrown.code === "no-webgpu";
    const save = { label: "Save the merge instead", run: () => this.#run.choose("storage") };
    this.#message.error(thrown, isMissing ? [save] : []);
    void this.#stored.refresh();
  }

  /**
   * @param {FileSystemDirectoryHandle} directory
   * @param {string} name
   */
  #chatWith(directory, name) {
    this.#inChat = directory;
    this.#around.showChat();
    void this.#around.models.load(directory, name);
  }
}

/**
 * A model's last name: enough to tell two apart.
 *
 * @param {string} name
 */
function shortName(name) {
  return name.split("@")[0]?.replace(/\/+$/, "").split("/").at(-1) || name;
}
