/** One load with its cache, in the worker: what is opened before it, and put right after it. */

import { BiseError } from "./errors.js";
import { hubRevision, isUnchanged, isWeights, withVersions, withoutQuery } from "./revision.js";
import { ENTRY_FILE, JOURNAL_FILE, PACK_FILE, PINS_FILE, TUNINGS_FILE, changePins, entryId, lockName, openStore, orNull, readJson, readPins, writeJson } from "./store.js";

/** @typedef {import("./protocol.js").LoadCall} LoadCall */
/** @typedef {import("./protocol.js").Info} Info */
/** @typedef {import("./store.js").Entry} Entry */
/** @typedef {import("./store.js").Pins} Pins */
/** @typedef {{ read(into: Uint8Array, options: { at: number }): number, getSize(): number, close(): void }} SyncHandle */

/**
 * A load's cache. `source` is what the engine gets; `note` says why nothing is kept, if so; `close` ends it, with
 * what was loaded or null, and gives what there is to say of the cache.
 *
 * @typedef {object} Session
 * @property {any} source
 * @property {string | null} note
 * @property {(info: Info | null) => Promise<void>} close
 */

/**
 * @typedef {object} Hooks
 * @property {(note: string) => void} onWait another tab is at work on the same model
 * @property {() => void} onFirst a model is kept for the first time
 * @property {AbortSignal} signal
 */

/** @typedef {{ manifest: Record<string, string>, hub: Record<string, string>, pins: Pins }} Trust */

/** Where the form of weights is left to the engine, an entry lies where those of a GPU do, whatever it holds. */
const AUTO = "f8";
/** How long files of a worker that has just ended may stay locked. */
const OPEN_PATIENCE_MS = 3000;
/** How long a server may take to tell of small files what it did not tell with them. */
const VERSIONS_PATIENCE_MS = 10_000;
/** And how much longer once the model is loaded, which waits for it. */
const CLOSE_PATIENCE_MS = 1000;

/**
 * @param {LoadCall} call
 * @param {Hooks} hooks
 * @returns {Promise<Session>}
 */
export async function openSession(call, hooks) {
  const { source, integrity } = call;
  /** @type {Trust} */
  const trust = { manifest: integrity ?? {}, hub: {}, pins: {} };
  if (source.kind !== "http") {
    return { source: source.kind === "merge" ? source : { ...source, trust }, note: null, close: async () => {} };
  }
  try {
    return await openHttp(call, source, trust, hooks);
  } catch (thrown) {
    if (hooks.signal.aborted) throw new BiseError("aborted", "aborted by the caller");
    throw thrown;
  }
}

/**
 * @param {LoadCall} call
 * @param {Extract<LoadCall["source"], { kind: "http" }>} source
 * @param {Trust} trust
 * @param {Hooks} hooks
 * @returns {Promise<Session>}
 */
async function openHttp(call, source, trust, hooks) {
  const hub = await hubRevision(source, hooks.signal);
  const revision = hub === null || hub === "unreachable" ? null : hub;
  if (revision !== null) trust.hub = revision.hashes;
  const uncached = (/** @type {string | null} */ note) => ({ source: { ...source, trust }, note, close: async () => {} });
  if (!call.cache) return uncached(null);
  const missing = whatIsMissing();
  if (missing !== null) return uncached(`the model is not kept for next time: this browser offers no ${missing} here`);

  const url = withoutQuery(source.base);
  const id = await entryId(url, call.options.weights ?? AUTO);
  const release = await lock(lockName(id), hooks);
  /** @type {SyncHandle[]} */
  const handles = [];
  const letGo = () => {
    for (const handle of handles) handle.close();
    release();
  };
  try {
    const store = /** @type {FileSystemDirectoryHandle} */ (await openStore(true));
    const isFirst = await isEmpty(store);
    const directory = await store.getDirectoryHandle(id, { create: true });
    for (const file of [PACK_FILE, JOURNAL_FILE]) handles.push(await openSync(directory, file, hooks.signal));
    const [pack, journal] = handles;
    const entry = /** @type {Entry | null} */ (await readJson(directory, ENTRY_FILE));
    const kept = entry !== null && (pack?.getSize() ?? 0) > 0 ? entry : null;
    trust.pins = Object.fromEntries(Object.entries(await readPins(store)).filter(([each]) => each.startsWith(url)).map(([each, pin]) => [each.slice(url.length), pin]));
    const { quota, usage } = await navigator.storage.estimate();

    const told = kept === null ? false : await isFresh(kept, hub, trust, source, hooks.signal);
    /** @type {Entry | null} */
    let described = kept;
    let writing = Promise.resolve();
    const closing = new AbortController();
    /** @type {Promise<unknown> | null} */
    let removing = null;
    // What describes another revision must not stand beside this one's weights. Files that are read side by side
    // wait for one removal: to the second one, a file that is on its way out looks gone.
    const onReplace = () => {
      described = null;
      removing ??= writing.catch(() => {}).then(() => orNull(() => directory.removeEntry(ENTRY_FILE)));
      return removing;
    };
    const onStart = (/** @type {Entry["files"]} */ files, /** @type {number} */ bytes, /** @type {Entry["weights"]} */ weights) => {
      const sha256 = Object.fromEntries(Object.entries({ ...trust.hub, ...trust.manifest }).filter(([file]) => file in files));
      /** @type {Entry} */
      const begun = { name: call.name, url, revision: revision?.sha ?? null, weights, files, sha256, bytes, complete: false, lastUsed: new Date().toISOString() };
      described = begun;
      removing = null;
      writing = (async () => {
        await writeJson(directory, ENTRY_FILE, begun);
        if (begun.revision !== null || Object.values(files).every(({ validator }) => validator !== null)) return;
        const versions = await withVersions(files, source, AbortSignal.any([hooks.signal, closing.signal, AbortSignal.timeout(VERSIONS_PATIENCE_MS)]));
        described = { ...begun, files: versions };
        await writeJson(directory, ENTRY_FILE, described);
      })();
      // Reported where it is waited for; a load that ends before must not leave it unheard.
      writing.catch(() => {});
      if (isFirst) hooks.onFirst();
    };
    const cache = {
      pack,
      journal,
      fresh: told !== false,
      identified: revision !== null,
      freeBytes: quota === undefined || usage === undefined ? null : Math.max(0, quota - usage),
      onStart,
      onReplace,
    };

    const close = async (/** @type {Info | null} */ info) => {
      const timer = setTimeout(() => closing.abort(), CLOSE_PATIENCE_MS);
      try {
        await writing.catch(() => {});
        const bytes = pack?.getSize() ?? 0;
        for (const handle of handles.splice(0)) handle.close();
        if (bytes === 0 || described === null) await store.removeEntry(id, { recursive: true });
        else if (info !== null) {
          await writeJson(directory, ENTRY_FILE, {
            ...described, name: call.name, revision: described.revision ?? (told === "unreachable" ? null : revision?.sha ?? null),
            weights: info.weights, sha256: info.sha256, bytes, complete: true, lastUsed: new Date().toISOString(),
          });
          if (revision === null) await pin(store, url, info.sha256, described.files);
        }
      } catch {
        // The model is loaded, or has failed for a reason of its own; an entry that could not be put right is made
        // anew next time.
      } finally {
        clearTimeout(timer);
        letGo();
      }
    };
    return { source: { ...source, trust, cache }, note: null, close };
  } catch (thrown) {
    letGo();
    if (hooks.signal.aborted) throw thrown;
    return uncached(`the model is not kept for next time: the browser's storage failed (${thrown instanceof Error ? thrown.message : String(thrown)})`);
  }
}

/**
 * Whether what is kept is what the server has. What cannot be asked, or is not told, is taken as it is: without a
 * network, or without the token, a kept model still loads. Weights whose hashes are known are those that have them,
 * whatever a server calls them.
 *
 * @param {Entry} entry
 * @param {Awaited<ReturnType<typeof hubRevision>>} hub
 * @param {Trust} trust
 * @param {{ base: string, headers?: Record<string, string> }} source
 * @param {AbortSignal} signal
 * @returns {Promise<boolean | "unreachable">}
 */
async function isFresh(entry, hub, trust, source, signal) {
  if (hub === "unreachable") return hub;
  // One that was stored while the hub would not say has no commit of its own.
  if (hub !== null && entry.revision !== null) return entry.revision === hub.sha;
  const { files, sha256 = {} } = entry;
  const expected = { ...trust.hub, ...trust.manifest };
  const weights = Object.keys(files).filter(isWeights);
  if (weights.length === 0 || weights.some((file) => !(file in expected && file in sha256))) return isUnchanged(files, source, signal);
  if (weights.some((file) => expected[file] !== sha256[file])) return false;
  const others = Object.entries(files).filter(([file, { validator }]) => !isWeights(file) && validator !== null);
  return others.length === 0 || isUnchanged(Object.fromEntries(others), source, signal);
}

/**
 * What is kept of a model whole and as its server has it, in whatever form, to be looked at: nothing is fetched or
 * written. Null if there is none, or another load is at work on it.
 *
 * @param {import("./protocol.js").InspectCall} call
 * @param {AbortSignal} signal
 * @returns {Promise<{ source: any, close: () => void } | null>}
 */
export async function openKept({ source, options }, signal) {
  if (source.kind !== "http" || whatIsMissing() !== null) return null;
  const id = await entryId(withoutQuery(source.base), options.weights ?? AUTO);
  /** @type {SyncHandle[]} */
  const handles = [];
  /** @type {(() => void) | null} */
  let release = null;
  const close = () => {
    for (const handle of handles) handle.close();
    release?.();
  };
  try {
    // Storage that is there and may not be used, as in some private windows, holds nothing.
    const store = await openStore(false);
    const directory = store && await orNull(() => store.getDirectoryHandle(id));
    const entry = /** @type {Entry | null} */ (directory && await readJson(directory, ENTRY_FILE));
    release = directory && entry?.complete ? await tryLock(lockName(id)) : null;
    if (!directory || !entry || !release) return null;
    const hub = await hubRevision(source, signal);
    /** @type {Trust} */
    const trust = { manifest: {}, hub: hub === null || hub === "unreachable" ? {} : hub.hashes, pins: {} };
    if (await isFresh(entry, hub, trust, source, signal) !== false) {
      for (const file of [PACK_FILE, JOURNAL_FILE]) handles.push(await openSync(directory, file, signal));
      const [pack, journal] = handles;
      return { source: { ...source, cache: { pack, journal, fresh: true } }, close };
    }
  } catch (thrown) {
    close();
    if (signal.aborted) throw new BiseError("aborted", "aborted by the caller");
    // What cannot be read here is fetched.
    return null;
  }
  close();
  return null;
}

/** @returns {string | null} */
function whatIsMissing() {
  if (!("storage" in navigator) || !("getDirectory" in navigator.storage) || !("crypto" in globalThis) || !crypto.subtle) return "private file system";
  if (typeof FileSystemFileHandle === "undefined" || !("createSyncAccessHandle" in FileSystemFileHandle.prototype)) return "synchronous file access";
  return "locks" in navigator ? null : "locks";
}

/**
 * Takes a lock, and waits if another holds it.
 *
 * @param {string} name
 * @param {Hooks} hooks
 * @returns {Promise<() => void>} what releases it
 */
async function lock(name, { onWait, signal }) {
  const release = await tryLock(name);
  if (release !== null) return release;
  onWait("another tab loads this model: waiting for what it keeps");
  return new Promise((resolve, reject) => {
    navigator.locks.request(name, { signal }, () => new Promise((end) => resolve(() => end(null)))).catch(reject);
  });
}

/**
 * @param {string} name
 * @returns {Promise<(() => void) | null>} what releases it; null if another holds it
 */
function tryLock(name) {
  return new Promise((resolve, reject) => {
    navigator.locks.request(name, { ifAvailable: true }, (held) => (
      held === null ? resolve(null) : new Promise((end) => resolve(() => end(null)))
    )).catch(reject);
  });
}

/**
 * @param {FileSystemDirectoryHandle} directory
 * @param {string} file
 * @param {AbortSignal} signal
 * @returns {Promise<SyncHandle>}
 */
async function openSync(directory, file, signal) {
  const handle = /** @type {FileSystemFileHandle & { createSyncAccessHandle(): Promise<SyncHandle> }} */ (await directory.getFileHandle(file, { create: true }));
  for (const began = performance.now(); ;) {
    try {
      return await handle.createSyncAccessHandle();
    } catch (thrown) {
      const isLocked = thrown instanceof DOMException && thrown.name === "NoModificationAllowedError";
      if (!isLocked || signal.aborted || performance.now() - began > OPEN_PATIENCE_MS) throw thrown;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}

/** @param {FileSystemDirectoryHandle} store */
async function isEmpty(store) {
  const names = /** @type {{ keys(): AsyncIterable<string> }} */ (/** @type {unknown} */ (store)).keys();
  for await (const name of names) if (name !== PINS_FILE && name !== TUNINGS_FILE) return false;
  return true;
}

/**
 * Remembers the hashes of files whose server gives none.
 *
 * @param {FileSystemDirectoryHandle} store
 * @param {string} url
 * @param {Record<string, string>} hashes
 * @param {Entry["files"]} files
 */
async function pin(store, url, hashes, files) {
  await changePins(store, (pins) => {
    for (const [file, sha256] of Object.entries(hashes)) {
      const validator = files[file]?.validator;
      if (validator) pins[`${url}${file}`] = { validator, sha256 };
    }
  });
}
