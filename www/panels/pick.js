/** Folders of the visitor's computer. */

import { element } from "./dom.js";

/** @typedef {(options?: { id?: string, mode?: "read" | "readwrite" }) => Promise<FileSystemDirectoryHandle>} Picker */

/** The browser's picker of directories, if it has one. @returns {Picker | null} */
export function directoryPicker() {
  const { showDirectoryPicker } = /** @type {{ showDirectoryPicker?: Picker }} */ (/** @type {unknown} */ (window));
  return showDirectoryPicker?.bind(window) ?? null;
}

/**
 * A directory to read from, or its files in browsers without a picker; null if nothing was picked.
 *
 * @returns {Promise<FileSystemDirectoryHandle | File[] | null>}
 */
export async function pickFolder() {
  const picker = directoryPicker();
  if (picker === null) return pickFiles();
  return orNull(picker());
}

/**
 * Null where the visitor closed the picker without a choice.
 *
 * @template T
 * @param {Promise<T>} picking
 * @returns {Promise<T | null>}
 */
export async function orNull(picking) {
  try {
    return await picking;
  } catch (thrown) {
    if (thrown instanceof DOMException && thrown.name === "AbortError") return null;
    throw thrown;
  }
}

/** @returns {Promise<File[] | null>} */
function pickFiles() {
  const input = element("input", { type: "file", webkitdirectory: true });
  return new Promise((resolve) => {
    input.addEventListener("change", () => resolve(input.files?.length ? [...input.files] : null));
    input.addEventListener("cancel", () => resolve(null));
    input.click();
  });
}
