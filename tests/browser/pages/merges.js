// What tests of merges need in the page, as `globalThis.merges`.

/** @param {BufferSource} bytes */
async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The tensors of a safetensors file.
 * @param {Uint8Array<ArrayBuffer>} file
 * @returns {[string, string, Uint8Array<ArrayBuffer>][]} name, dtype, bytes
 */
function tensorsOf(file) {
  const length = Number(new DataView(file.buffer, file.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + length)));
  delete header.__metadata__;
  return Object.entries(header).map(([name, { dtype, data_offsets: [begin, end] }]) => [name, dtype, file.slice(8 + length + begin, 8 + length + end)]);
}

/**
 * The files of a directory by name.
 * @param {FileSystemDirectoryHandle} directory
 */
async function readAll(directory) {
  /** @type {Map<string, Uint8Array<ArrayBuffer>>} */
  const files = new Map();
  for await (const [name, handle] of /** @type {any} */ (directory).entries()) {
    files.set(name, new Uint8Array(await (await handle.getFile()).arrayBuffer()));
  }
  return files;
}

/** @param {Map<string, Uint8Array<ArrayBuffer>>} files */
function weights(files) {
  return [...files].filter(([name]) => name.endsWith(".safetensors")).flatMap(([, file]) => tensorsOf(file));
}

/** @param {Map<string, Uint8Array<ArrayBuffer>>} files */
async function hashes(files) {
  const each = weights(files).map(async ([name, , bytes]) => /** @type {const} */ ([name, await sha256(bytes)]));
  return Object.fromEntries(await Promise.all(each));
}

/**
 * How far two sets of BF16 tensors are apart: elements in all, elements that differ, and by how many ulps at most.
 * @param {Map<string, Uint8Array<ArrayBuffer>>} some
 * @param {Map<string, Uint8Array<ArrayBuffer>>} others
 */
function compare(some, others) {
  const result = { elements: 0, different: 0, ulps: 0 };
  const known = new Map(weights(others).map(([name, , bytes]) => [name, new Int16Array(bytes.buffer)]));
  for (const [name, dtype, bytes] of weights(some)) {
    const [a, b] = [new Int16Array(bytes.buffer), known.get(name)];
    if (dtype !== "BF16" || b?.length !== a.length) throw new Error(`${name} cannot be compared`);
    for (const [i, bits] of a.entries()) {
      const ulps = Math.abs(bits - (b[i] ?? 0));
      result.elements += 1;
      result.different += ulps > 0 ? 1 : 0;
      result.ulps = Math.max(result.ulps, ulps);
    }
  }
  return result;
}

/**
 * An empty directory of the origin's own storage.
 * @param {string} name
 * @returns {Promise<FileSystemDirectoryHandle>}
 */
async function folder(name) {
  const root = await navigator.storage.getDirectory();
  // It may be there from before.
  await root.removeEntry(name, { recursive: true }).catch(() => {});
  return root.getDirectoryHandle(name, { create: true });
}

/** Output that is kept in memory, in the order in which files were begun. */
function memory() {
  /** @type {Map<string, Uint8Array<ArrayBuffer>>} */
  const files = new Map();
  /** @type {{ file: string, bytes: number, got: number, end: "open" | "closed" | "aborted" }[]} */
  const log = [];
  const open = (/** @type {string} */ file, /** @type {number} */ bytes) => {
    const entry = { file, bytes, got: 0, end: /** @type {"open" | "closed" | "aborted"} */ ("open") };
    log.push(entry);
    /** @type {Uint8Array[]} */
    const pieces = [];
    return new WritableStream({
      write: (piece) => {
        entry.got += piece.byteLength;
        pieces.push(piece);
      },
      close: async () => {
        entry.end = "closed";
        files.set(file, new Uint8Array(await new Blob(/** @type {BlobPart[]} */ (pieces)).arrayBuffer()));
      },
      abort: () => { entry.end = "aborted"; },
    });
  };
  return { files, log, open };
}

/**
 * Whatever the client starts as its worker is this one.
 * @param {string} script
 */
function withWorker(script) {
  const Original = globalThis.Worker;
  globalThis.Worker = class extends Original {
    /** @param {string | URL} _script @param {WorkerOptions} [options] */
    constructor(_script, options) {
      super(script, options);
    }
  };
  return () => { globalThis.Worker = Original; };
}

/** Whatever the client starts as its worker is this page's worker without WebGPU. */
function withoutGpu() {
  withWorker("/pages/no-gpu-worker.js");
}

const models = { "./tale": "/models/tale/", "./case": "/models/case/" };

Object.assign(globalThis, { merges: { readAll, hashes, compare, folder, memory, withWorker, withoutGpu, models } });
