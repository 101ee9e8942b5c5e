/** Files and folders that are dropped on the page. The buttons that open them do the same by keyboard. */

import { byId } from "./dom.js";

/**
 * @typedef {object} Entry what browsers call FileSystemEntry
 * @property {boolean} isDirectory
 * @property {string} name
 * @property {(done: (file: File) => void, failed: (error: unknown) => void) => void} [file]
 * @property {() => { readEntries: (done: (entries: Entry[]) => void, failed: (error: unknown) => void) => void }} [createReader]
 */

/**
 * @param {(files: File[], name: string) => void} open
 * @param {(error: unknown) => void} failed
 */
export function acceptDrops(open, failed) {
  const sign = byId("drop", HTMLElement);
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  const wanted = () => document.body.dataset.view !== "merge";
  for (const type of /** @type {const} */ (["dragenter", "dragover"])) {
    document.addEventListener(type, (event) => {
      if (!hasFiles(event)) return;
      // Without this the browser would leave the page for the file.
      event.preventDefault();
      sign.hidden = !wanted();
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) sign.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    sign.hidden = true;
    if (!wanted() || event.dataTransfer === null) return;
    droppedFiles(event.dataTransfer).then(({ files, name }) => {
      if (files.length > 0) open(files, name);
    }, failed);
  });
}

/**
 * The files that were dropped: of a folder, those that lie directly in it.
 *
 * @param {DataTransfer} transfer
 * @returns {Promise<{ files: File[], name: string }>}
 */
async function droppedFiles(transfer) {
  // Entries are to be had only until the event's handler returns.
  const entries = [...transfer.items].map((item) => /** @type {Entry | null} */ (item.webkitGetAsEntry?.() ?? null)).filter((entry) => entry !== null);
  if (entries.length === 0) return { files: [...transfer.files], name: "your files" };
  const [first] = entries;
  const inside = await Promise.all(entries.map(async (entry) => (entry.isDirectory ? entriesOf(entry) : [entry])));
  const files = await Promise.all(inside.flat().filter((entry) => !entry.isDirectory).map(fileOf));
  return { files, name: entries.length === 1 && first?.isDirectory ? first.name : "your files" };
}

/** @param {Entry} entry @returns {Promise<File>} */
function fileOf(entry) {
  return new Promise((resolve, reject) => entry.file?.(resolve, reject));
}

/** @param {Entry} directory @returns {Promise<Entry[]>} */
async function entriesOf(directory) {
  const reader = directory.createReader?.();
  /** @type {Entry[]} */
  const all = [];
  for (;;) {
    // They come in batches, and an empty one is the end.
    const batch = await new Promise((/** @type {(entries: Entry[]) => void} */ resolve, reject) => (reader ? reader.readEntries(resolve, reject) : resolve([])));
    if (batch.length === 0) return all;
    all.push(...batch);
  }
}
