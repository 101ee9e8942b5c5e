/** Where merges are kept: folders of the visitor's, and this origin's own storage. */

import { button, byId, element } from "../dom.js";
import { formatBytes } from "../format.js";
import { directoryPicker, orNull } from "../pick.js";

/** @typedef {{ directory: FileSystemDirectoryHandle, remove: () => Promise<void>, label: string }} Output */
/** @typedef {{ name: string, directory: FileSystemDirectoryHandle, files: File[] }} Stored */

const FOLDER = "merges";

/** @param {boolean} create */
async function stored(create) {
  return (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, { create });
}

/**
 * A merge's name as that of a file.
 *
 * @param {string} name
 */
export function fileName(name) {
  return name.replaceAll(" × ", "-x-").replaceAll(/[^\w.-]+/g, "-").replaceAll(/^[-.]+|[-.]+$/g, "") || "merge";
}

/**
 * A new directory for a merge: it never writes over another. Null if the visitor picked none.
 *
 * @param {"folder" | "storage"} kind
 * @param {string} name
 * @returns {Promise<Output | null>}
 */
export async function newOutput(kind, name) {
  const parent = kind === "storage" ? await stored(true) : await orNull(directoryPicker()?.({ id: "bise-merge", mode: "readwrite" }) ?? stored(true));
  if (parent === null) return null;
  const slug = fileName(name);
  for (let i = 1; ; i += 1) {
    const candidate = i === 1 ? slug : `${slug}-${i}`;
    if (await exists(parent, candidate)) continue;
    const directory = await parent.getDirectoryHandle(candidate, { create: true });
    const label = kind === "storage" ? `“${candidate}” in this browser’s storage` : `the folder “${parent.name}/${candidate}”`;
    return { directory, remove: () => parent.removeEntry(candidate, { recursive: true }), label };
  }
}

/**
 * @param {FileSystemDirectoryHandle} parent
 * @param {string} name
 */
async function exists(parent, name) {
  try {
    await parent.getDirectoryHandle(name);
    return true;
  } catch (thrown) {
    if (thrown instanceof DOMException && thrown.name === "NotFoundError") return false;
    if (thrown instanceof DOMException && thrown.name === "TypeMismatchError") return true;
    throw thrown;
  }
}

/** Bytes that this origin may still store, or null where the browser does not tell. */
export async function freeBytes() {
  const { quota, usage } = await navigator.storage.estimate();
  return quota === undefined || usage === undefined ? null : quota - usage;
}

/** @returns {Promise<Stored[]>} */
async function list() {
  let parent;
  try {
    parent = await stored(false);
  } catch {
    // Nothing was ever kept, or this browser keeps nothing here (a private window).
    return [];
  }
  const merges = [];
  for await (const directory of values(parent)) {
    if (directory.kind !== "directory") continue;
    const files = await filesOf(directory);
    if (files !== null) merges.push({ name: directory.name, directory, files });
  }
  return merges.sort((a, b) => a.name.localeCompare(b.name));
}

/**
 * The largest first; null if the directory is deleted meanwhile.
 *
 * @param {FileSystemDirectoryHandle} directory
 */
async function filesOf(directory) {
  const files = [];
  try {
    for await (const handle of values(directory)) if (handle.kind === "file") files.push(await handle.getFile());
  } catch (thrown) {
    if (thrown instanceof DOMException && thrown.name === "NotFoundError") return null;
    throw thrown;
  }
  return files.sort((a, b) => b.size - a.size);
}

/**
 * TypeScript's own declarations know no iteration of directories in every version.
 *
 * @param {FileSystemDirectoryHandle} directory
 */
function values(directory) {
  return /** @type {{ values(): AsyncIterable<FileSystemDirectoryHandle | FileSystemFileHandle> }} */ (/** @type {unknown} */ (directory)).values();
}

export class StoredPanel {
  #section = byId("stored", HTMLElement);
  #list = byId("stored-list", HTMLElement);
  #onChat;
  #onFailed;
  /** @type {string[]} */
  #urls = [];

  /**
   * @param {(directory: FileSystemDirectoryHandle) => void} onChat
   * @param {(thrown: unknown) => void} onFailed
   */
  constructor(onChat, onFailed) {
    this.#onChat = onChat;
    this.#onFailed = onFailed;
  }

  async refresh() {
    const merges = await list();
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = [];
    this.#section.hidden = merges.length === 0;
    this.#list.replaceChildren(...merges.map((merge) => this.#item(merge)));
  }

  /** @param {Stored} merge */
  #item({ name, directory, files }) {
    // Its description is written last: without it the merge was interrupted.
    const isWhole = files.some((file) => file.name === "config.json");
    const bytes = formatBytes(files.reduce((sum, { size }) => sum + size, 0));
    const chat = button("Chat with it", () => this.#onChat(directory));
    const remove = button("Delete", () => void this.#remove(name), "quiet");
    for (const each of [chat, remove]) each.ariaLabel = `${each.textContent}: ${name}`;
    const links = files.map((file) => {
      const href = URL.createObjectURL(file);
      this.#urls.push(href);
      return element("li", {}, [element("a", { href, download: file.name, textContent: file.name }), ` ${formatBytes(file.size)}`]);
    });
    const downloads = element("details", {}, [
      element("summary", { textContent: "Download its files" }),
      element("p", { className: "hint", textContent: "Put them into one folder: together they are a checkpoint for transformers, vLLM or this page." }),
      element("ul", {}, links),
    ]);
    return element("li", { className: "stored-item" }, [
      element("div", { className: "stored-head" }, [
        element("strong", { textContent: name }), element("span", { className: "hint", textContent: isWhole ? bytes : `${bytes}, incomplete` }),
        ...(isWhole ? [chat] : []), remove,
      ]),
      ...(isWhole ? [downloads] : []),
    ]);
  }

  /** @param {string} name */
  async #remove(name) {
    try {
      await (await stored(true)).removeEntry(name, { recursive: true });
    } catch (thrown) {
      this.#onFailed(thrown);
    }
    await this.refresh();
  }
}
