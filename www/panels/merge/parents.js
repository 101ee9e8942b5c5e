/** The models of a recipe: their names in it, and where each of them lies. */

import { HUB_URL } from "../../pkg/index.js";
import { button, byId, element } from "../dom.js";
import { formatBytes, fromHubPage } from "../format.js";
import { pickFolder } from "../pick.js";
import { EMBEDDED, KNOWN_BYTES } from "./presets.js";

/** @typedef {FileSystemDirectoryHandle | File[]} Folder */
/** @typedef {{ name: string, role: string }} Row */

const EMBEDDED_BYTES = 6e6;

export class ParentsEditor {
  #list = byId("parents", HTMLElement);
  #onRename;
  #onFailed;
  /** Folders by the names of recipes. @type {Map<string, { folder: Folder, label: string }>} */
  #folders = new Map();
  /** @type {Row[]} */
  #rows = [];
  #isEditable = true;

  /**
   * @param {(index: number, name: string) => void} onRename
   * @param {(thrown: unknown) => void} onFailed a folder could not be opened
   */
  constructor(onRename, onFailed) {
    this.#onRename = onRename;
    this.#onFailed = onFailed;
  }

  /**
   * @param {Row[]} rows
   * @param {boolean} isEditable whether names are changed here; otherwise in the text
   */
  show(rows, isEditable) {
    this.#rows = rows;
    this.#isEditable = isEditable;
    // A rebuilt row takes the focus with it: put it back.
    const focused = document.activeElement?.id ?? "";
    this.#list.replaceChildren(...rows.map((row, index) => this.#row(row, index)));
    if (focused.startsWith("parent-")) document.getElementById(focused)?.focus();
  }

  /** Where the models of the recipe lie, for those that are not their names. */
  models() {
    const names = this.#rows.map(({ name }) => name);
    const isOwn = names.every((name) => name in EMBEDDED && !this.#folders.has(name));
    if (isOwn && Object.keys(EMBEDDED).every((name) => names.includes(name))) return EMBEDDED;
    /** @type {Record<string, string | Folder>} */
    const models = {};
    for (const name of names) {
      const place = this.#folders.get(name)?.folder ?? EMBEDDED[name];
      if (place !== undefined) models[name] = place;
    }
    return models;
  }

  /** What the models are, one by one, for a load of their own. */
  each() {
    const models = this.models();
    return this.#rows.map(({ name }) => ({ name, model: /** @type {Record<string, string | Folder>} */ (models)[name] ?? name }));
  }

  /** Whether all of them come with the page. */
  areEmbedded() {
    return this.#rows.every(({ name }) => name in EMBEDDED && !this.#folders.has(name));
  }

  /** What has to be fetched from elsewhere: bytes as far as they are known, and how many are of unknown size. */
  download() {
    const remote = this.#rows.filter(({ name }) => !this.#folders.has(name) && !(name in EMBEDDED));
    const known = remote.map(({ name }) => KNOWN_BYTES[name] ?? 0);
    return { bytes: known, unknown: known.filter((bytes) => bytes === 0).length };
  }

  /**
   * @param {Row} row
   * @param {number} index
   */
  #row({ name, role }, index) {
    const input = element("input", {
      type: "text", id: `parent-${index}`, value: name, readOnly: !this.#isEditable, spellcheck: false, autocapitalize: "off", autocomplete: "off",
    });
    input.setAttribute("list", "known-models");
    input.setAttribute("aria-describedby", `parent-${index}-place`);
    input.addEventListener("change", () => {
      const renamed = fromHubPage(input.value.trim(), HUB_URL);
      if (renamed === "" || renamed === name) input.value = name;
      else this.#onRename(index, renamed);
    });
    const folder = this.#folders.get(name);
    const open = folder
      ? button("Leave folder", () => this.#leave(name))
      : button("Open a folder", () => void this.#open(index));
    open.id = `parent-${index}-folder`;
    open.ariaLabel = `${open.textContent}: ${role}`;
    return element("div", { className: "parent" }, [
      element("label", { htmlFor: input.id, textContent: role }),
      element("div", { className: "row" }, [input, open]),
      element("p", { id: `parent-${index}-place`, className: "hint", textContent: folder ? `read from the folder “${folder.label}” on this computer` : placeOf(name) }),
    ]);
  }

  /** @param {string} name */
  #leave(name) {
    this.#folders.delete(name);
    this.#onRename(-1, name);
  }

  /** @param {number} index */
  async #open(index) {
    try {
      const picked = await pickFolder();
      const { name } = this.#rows[index] ?? {};
      if (picked === null || name === undefined) return;
      const label = Array.isArray(picked) ? picked[0]?.webkitRelativePath.split("/")[0] || "files" : picked.name;
      // A copy of what the recipe names keeps that name; anything else is another model.
      const isCopy = !this.#isEditable || name.split("@")[0]?.split("/").at(-1) === label;
      const renamed = isCopy ? name : `./${label.replaceAll(/[@+]/g, "-")}`;
      this.#folders.set(renamed, { folder: picked, label });
      this.#onRename(isCopy ? -1 : index, renamed);
    } catch (thrown) {
      this.#onFailed(thrown);
    }
  }
}

/** @param {string} name */
function placeOf(name) {
  if (name in EMBEDDED) return `comes with this page, ${formatBytes(EMBEDDED_BYTES)}`;
  if (/^https?:/i.test(name)) return "read from this address";
  if (/^(\.{0,2}\/|.*\/$)/.test(name)) return `read from ${new URL(name, document.baseURI).href}, unless you open its folder`;
  if (!/^[\w.-]+\/[\w.-]+(@.+)?$/.test(name)) return "no hub name and no address: open its folder";
  const bytes = KNOWN_BYTES[name];
  return `from the Hugging Face hub${bytes ? `, about ${formatBytes(bytes)}` : ""}`;
}
