/**
 * Where kept models lie: one folder each in the origin's private file system, in `bise-cache`.
 *
 *     entry.json  what it is, for people and for the next load
 *     weights     what goes to the GPU, and the small files, in records
 *     journal     how much of it is durable
 *
 * Beside them lie pins.json and tuning.json, which outlive them. A folder is changed only under its lock; see {@link lockName}.
 */

/** Part of every entry's name: what an earlier format kept is not looked at. */
const FORMAT = 1;
const FOLDER = "bise-cache";
export const PINS_FILE = "pins.json";
export const TUNINGS_FILE = "tuning.json";
export const ENTRY_FILE = "entry.json";
export const PACK_FILE = "weights";
export const JOURNAL_FILE = "journal";

/**
 * What entry.json says. `files` are those that the entry was made from, as the server told of them.
 *
 * @typedef {object} Entry
 * @property {string} name
 * @property {string} url
 * @property {string | null} revision the hub's commit
 * @property {"f8" | "i8" | "checkpoint"} weights
 * @property {Record<string, KnownFile>} files
 * @property {Record<string, string>} [sha256] of its weight files; until it is complete, those that they are to have
 * @property {number} bytes how long the entry will be, about
 * @property {boolean} complete
 * @property {string} lastUsed
 */

/** @typedef {{ bytes: number | null, validator: string | null }} KnownFile */

/** @typedef {Record<string, { validator: string, sha256: string }>} Pins hashes by URL, from the first download of a version */

/** @param {string} id */
export const lockName = (id) => `bise-cache:${id}`;

/**
 * The name of a model's entry: the same source with the same settings has the same.
 *
 * @param {string} url without query, which may hold a secret
 * @param {string} weights
 */
export async function entryId(url, weights) {
  const key = new TextEncoder().encode(`${FORMAT}\n${weights}\n${url}`);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", key));
  return [...digest.subarray(0, 12)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The folder of all entries; null if there is none and none is to be made.
 *
 * @param {boolean} create
 */
export async function openStore(create) {
  const root = await navigator.storage.getDirectory();
  return orNull(() => root.getDirectoryHandle(FOLDER, { create }));
}

/**
 * @param {FileSystemDirectoryHandle} directory
 * @param {string} file
 * @returns {Promise<unknown>} null if there is no such file, or it cannot be read
 */
export async function readJson(directory, file) {
  const handle = await orNull(() => directory.getFileHandle(file));
  if (handle === null) return null;
  try {
    return JSON.parse(await (await handle.getFile()).text());
  } catch {
    // Torn by a crash: what it was about is done anew.
    return null;
  }
}

/**
 * Replaces a file as a whole: a crash leaves the old one.
 *
 * @param {FileSystemDirectoryHandle} directory
 * @param {string} file
 * @param {unknown} value
 */
export async function writeJson(directory, file, value) {
  const handle = await directory.getFileHandle(file, { create: true });
  const stream = await handle.createWritable();
  await stream.write(`${JSON.stringify(value, null, 2)}\n`);
  await stream.close();
}

/**
 * Replaces a file by what becomes of it; no other tab does meanwhile.
 *
 * @param {FileSystemDirectoryHandle} store
 * @param {string} file
 * @param {string} lock
 * @param {(held: unknown) => unknown} change of null where there is no such file
 */
export async function changeJson(store, file, lock, change) {
  await navigator.locks.request(lock, async () => writeJson(store, file, change(await readJson(store, file))));
}

/**
 * Changes what is remembered of first downloads.
 *
 * @param {FileSystemDirectoryHandle} store
 * @param {(pins: Pins) => void} change
 */
export async function changePins(store, change) {
  await changeJson(store, PINS_FILE, "bise-pins", (held) => {
    const pins = /** @type {Pins} */ (held ?? {});
    change(pins);
    return pins;
  });
}

/**
 * @param {FileSystemDirectoryHandle} store
 * @returns {Promise<Pins>}
 */
export async function readPins(store) {
  return /** @type {Pins} */ (await readJson(store, PINS_FILE) ?? {});
}

/**
 * @template T
 * @param {() => Promise<T>} work
 * @returns {Promise<T | null>} null where there is no such file or folder
 */
export async function orNull(work) {
  try {
    return await work();
  } catch (thrown) {
    if (thrown instanceof DOMException && thrown.name === "NotFoundError") return null;
    throw thrown;
  }
}
