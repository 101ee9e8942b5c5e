/** Where a checkpoint's files go: a directory, or streams that the page opens. Runs in the worker, but for {@link lendOutput}. */

import { BiseError, badRequest, toPlain } from "./errors.js";

/**
 * Takes files, one after the other. A file has its name only once it is finished.
 * @typedef {object} Sink
 * @property {(file: string, bytes: number) => Promise<void>} create
 * @property {(data: Uint8Array<ArrayBuffer>) => Promise<void>} write the bytes are there until it returns, no longer
 * @property {() => Promise<void>} finish
 * @property {() => Promise<void>} abort removes what was begun
 */

/** Opens a stream for one file of a known length. @typedef {(file: string, bytes: number) => WritableStream<Uint8Array> | Promise<WritableStream<Uint8Array>>} OpenFile */

/**
 * @typedef {FileSystemFileHandle & { move?: (name: string) => Promise<void>, createSyncAccessHandle?: () => Promise<SyncAccess> }} MovableFile
 * @typedef {{ write: (data: Uint8Array, options: { at: number }) => number, close: () => void }} SyncAccess
 */

/** A file being written. @typedef {Pick<FileSystemWritableFileStream, "close" | "abort"> & { write: (data: Uint8Array<ArrayBuffer>) => Promise<void> }} Writing */

const PARTIAL = ".partial";

/**
 * Writes into an empty directory. A file has its name only once it is complete: where the browser can rename, it is
 * called `*.partial` until then; elsewhere its content appears under the name all at once, at the end. One that is
 * never completed is removed.
 *
 * @param {FileSystemDirectoryHandle} directory
 * @returns {Sink}
 */
export function directorySink(directory) {
  /** @type {{ file: string, handle: MovableFile, stream: Writing | null } | null} */
  let current = null;
  /** Own storage can rename; a picked directory cannot in every browser. @type {boolean | undefined} */
  let renames;
  return {
    create: async (file) => {
      renames ??= await prepare(directory);
      const handle = await directory.getFileHandle(renames ? file + PARTIAL : file, { create: true });
      current = { file, handle, stream: null };
      // What is written in place shows before it is complete: only under a name that says so.
      current.stream = (renames ? await inPlace(handle) : null) ?? copying(await handle.createWritable());
    },
    write: async (data) => {
      await current?.stream?.write(data);
    },
    finish: async () => {
      await current?.stream?.close();
      if (renames) await current?.handle.move?.(current.file);
      current = null;
    },
    abort: async () => {
      if (current === null) return;
      const { handle, stream } = current;
      current = null;
      // Each may fail because the other half is already gone.
      await stream?.abort().catch(() => {});
      await directory.removeEntry(handle.name).catch(() => {});
    },
  };
}

/**
 * Writes into the file itself, which workers may in the origin's own storage: several times as fast as a stream,
 * each of whose writes visits another process. Null where that is not to be had.
 *
 * @param {MovableFile} handle
 * @returns {Promise<Writing | null>}
 */
async function inPlace(handle) {
  const access = await handle.createSyncAccessHandle?.().catch(() => null);
  if (!access) return null;
  let at = 0;
  const close = async () => access.close();
  return {
    write: async (data) => {
      for (let rest = data; rest.length > 0; ) {
        const written = access.write(rest, { at });
        if (written === 0) throw new DOMException("no byte was written", "QuotaExceededError");
        at += written;
        rest = rest.subarray(written);
      }
    },
    close,
    abort: close,
  };
}

/**
 * Takes a copy of what it is given, and keeps it until it is written.
 *
 * @param {FileSystemWritableFileStream} stream
 * @returns {Writing}
 */
const copying = (stream) => ({ write: (data) => stream.write(data.slice()), close: () => stream.close(), abort: () => stream.abort() });

/**
 * Makes sure that nothing is overwritten, clears what an earlier attempt left unfinished, and tells whether files
 * can be renamed here.
 *
 * @param {FileSystemDirectoryHandle} directory
 * @returns {Promise<boolean>}
 */
async function prepare(directory) {
  for await (const name of directory.keys()) {
    if (!name.endsWith(PARTIAL)) {
      throw badRequest(`output: the directory holds "${name}" already; a checkpoint goes into an empty one, so that no old file is taken for its own.`);
    }
  }
  for await (const name of directory.keys()) await directory.removeEntry(name);
  const probe = /** @type {MovableFile} */ (await directory.getFileHandle(`probe${PARTIAL}`, { create: true }));
  try {
    await probe.move?.(`probe-moved${PARTIAL}`);
    return probe.move !== undefined;
  } catch {
    return false;
  } finally {
    await directory.removeEntry(probe.name).catch(() => {});
  }
}

/**
 * The worker's end of a page's own output.
 *
 * @param {MessagePort} port
 * @returns {Sink}
 */
export function portSink(port) {
  /** @type {{ resolve: () => void, reject: (error: Error) => void } | null} */
  let waiting = null;
  port.addEventListener("message", ({ data }) => {
    const call = waiting;
    waiting = null;
    if (data.error === undefined) call?.resolve();
    else call?.reject(named(data.error));
  });
  port.start();
  /**
   * @param {object} message
   * @param {Transferable[]} [transfer]
   * @returns {Promise<void>}
   */
  const call = (message, transfer = []) => new Promise((resolve, reject) => {
    waiting = { resolve, reject };
    port.postMessage(message, transfer);
  });
  /** The write that is under way: the next piece is made meanwhile. Its failure meets whoever calls next. */
  let writing = Promise.resolve();
  return {
    create: (file, bytes) => call({ type: "create", file, bytes }),
    write: async (data) => {
      const copy = data.slice();
      await writing;
      writing = call({ type: "write", data: copy }, [copy.buffer]);
      writing.catch(() => {});
    },
    finish: async () => {
      await writing;
      await call({ type: "finish" });
    },
    abort: async () => {
      await writing.catch(() => {});
      writing = Promise.resolve();
      await call({ type: "abort" });
    },
  };
}

/** @param {{ name: string, message: string }} plain */
function named({ name, message }) {
  const error = new Error(message);
  error.name = name;
  return error;
}

/**
 * The page's end: answers the worker's calls with streams that `open` gives. One call at a time, so that a slow
 * stream holds the work up instead of filling memory.
 *
 * @param {MessagePort} port
 * @param {OpenFile} open
 * @returns {() => void} ends it: a stream that is still open is aborted, even while it holds a write back
 */
export function lendOutput(port, open) {
  /** @type {WritableStreamDefaultWriter<Uint8Array> | null} */
  let writer = null;
  const abort = async () => {
    const unfinished = writer;
    writer = null;
    await unfinished?.abort(new BiseError("aborted", "Writing ended before this file was complete."));
  };
  /** @param {any} message */
  const answer = async (message) => {
    switch (message.type) {
      case "create":
        writer = (await open(message.file, message.bytes)).getWriter();
        break;
      case "write":
        await writer?.write(message.data);
        break;
      case "finish":
        await writer?.close();
        writer = null;
        break;
      default:
        await abort();
    }
  };
  port.addEventListener("message", ({ data }) => {
    answer(data).then(
      () => port.postMessage({}),
      (thrown) => port.postMessage({
        error: { name: thrown instanceof Error || thrown instanceof DOMException ? thrown.name : "Error", message: toPlain(thrown, "bad-request").message },
      }),
    );
  });
  port.start();
  return () => {
    // What the stream's owner makes of it is no concern of ours.
    void abort().catch(() => {});
  };
}
