/** Where a merge's files go: a directory, or streams that the page opens. Runs in the worker, but for {@link lendOutput}. */

import { BiseError, toPlain } from "./errors.js";

/**
 * Takes files, one after the other. A file has its name only once it is finished.
 * @typedef {object} Sink
 * @property {(file: string, bytes: number) => Promise<void>} create
 * @property {(data: Uint8Array<ArrayBuffer>) => Promise<void>} write
 * @property {() => Promise<void>} finish
 * @property {() => Promise<void>} abort removes what was begun
 */

/** Opens a stream for one file of a known length. @typedef {(file: string, bytes: number) => WritableStream<Uint8Array> | Promise<WritableStream<Uint8Array>>} OpenFile */

/**
 * @typedef {FileSystemFileHandle & { move?: (name: string) => Promise<void> }} MovableFile
 */

const PARTIAL = ".partial";

/**
 * Writes into a directory. A file is named `*.partial` until it is complete; one that is never completed is
 * removed.
 *
 * @param {FileSystemDirectoryHandle} directory
 * @returns {Sink}
 */
export function directorySink(directory) {
  /** @type {{ file: string, handle: MovableFile, stream: FileSystemWritableFileStream } | null} */
  let current = null;
  return {
    create: async (file) => {
      const handle = await directory.getFileHandle(file + PARTIAL, { create: true });
      current = { file, handle, stream: await handle.createWritable() };
    },
    write: async (data) => {
      await current?.stream.write(data);
    },
    finish: async () => {
      if (current === null) return;
      const { file, handle, stream } = current;
      await stream.close();
      await rename(directory, handle, file);
      current = null;
    },
    abort: async () => {
      if (current === null) return;
      const { file, stream } = current;
      current = null;
      // Each may fail because the other half is already gone.
      await stream.abort().catch(() => {});
      await directory.removeEntry(file + PARTIAL).catch(() => {});
    },
  };
}

/**
 * @param {FileSystemDirectoryHandle} directory
 * @param {MovableFile} handle
 * @param {string} file
 */
async function rename(directory, handle, file) {
  if (handle.move) {
    try {
      await handle.move(file);
      return;
    } catch {
      // Some browsers move files only inside the origin's own storage.
    }
  }
  const target = await directory.getFileHandle(file, { create: true });
  try {
    const stream = await target.createWritable();
    // The content appears all at once when the stream is closed.
    await (await handle.getFile()).stream().pipeTo(stream);
  } catch (thrown) {
    await directory.removeEntry(file).catch(() => {});
    throw thrown;
  }
  await directory.removeEntry(handle.name);
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
  return {
    create: (file, bytes) => call({ type: "create", file, bytes }),
    write: (data) => call({ type: "write", data }, [data.buffer]),
    finish: () => call({ type: "finish" }),
    abort: () => call({ type: "abort" }),
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
 * stream holds the merge up instead of filling memory.
 *
 * @param {MessagePort} port
 * @param {OpenFile} open
 */
export function lendOutput(port, open) {
  /** @type {WritableStreamDefaultWriter<Uint8Array> | null} */
  let writer = null;
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
        await writer?.abort(new BiseError("aborted", "The merge ended before this file was complete."));
        writer = null;
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
}
