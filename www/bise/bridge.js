/** The page's side of the protocol: calls to the worker as promises. */

import { BiseError, badRequest } from "./errors.js";

/** @typedef {import("./protocol.js").Call} Call */
/** @typedef {import("./protocol.js").FromWorker} FromWorker */
/** @typedef {Extract<FromWorker, { type: "progress" | "merging" | "tensor" | "delta" | "keeping" | "benching" }>} CallEvent */
/**
 * @typedef {object} Waiting
 * @property {(value: any) => void} resolve
 * @property {(error: BiseError) => void} reject
 * @property {(event: CallEvent) => void} onEvent
 */

/** How long a worker may take to put things away before it is ended. */
const GRACE_MS = 2000;

export class Bridge {
  #worker;
  #onGpuLost;
  #nextId = 1;
  #heard = false;
  /** Why no call can be made any more. @type {BiseError | null} */
  #closed = null;
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();

  /**
   * @param {Worker} worker
   * @param {() => void} [onGpuLost] the device went, and the worker with it
   */
  constructor(worker, onGpuLost = () => {}) {
    this.#worker = worker;
    this.#onGpuLost = onGpuLost;
    worker.addEventListener("message", (event) => this.#receive(event.data));
    worker.addEventListener("error", (event) => {
      const detail = event.message ? `: ${event.message}` : "";
      this.#end(this.#heard
        ? new BiseError("device-lost", `The engine's worker crashed${detail}. Load the model again.`)
        : new BiseError("network", `The engine's worker could not be started${detail}. Check that all files of the package are served, as JavaScript, from one directory, and that the browser has module workers (Firefox from 114 on).`));
    });
    worker.addEventListener("messageerror", () => {
      this.#end(new BiseError("device-lost", "A message from the engine's worker could not be read. Load the model again."));
    });
  }

  /** Why no call can be made any more, or null. */
  get closed() {
    return this.#closed;
  }

  /**
   * @param {Call} call
   * @param {{ onEvent?: (event: CallEvent) => void, signal?: AbortSignal, transfer?: Transferable[] }} [options]
   * @returns {Promise<any>} settles when the worker says so: after an abort, too
   */
  call(call, { onEvent = () => {}, signal, transfer = [] } = {}) {
    if (this.#closed) return Promise.reject(this.#closed);
    const id = this.#nextId;
    this.#nextId += 1;
    const abort = () => this.#worker.postMessage({ type: "abort", id });
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, onEvent });
      try {
        this.#worker.postMessage({ ...call, id }, transfer);
      } catch (thrown) {
        this.#waiting.delete(id);
        reject(badRequest(`The request cannot be sent to the worker: ${String(thrown)}`));
        return;
      }
      signal?.addEventListener("abort", abort, { once: true });
      if (signal?.aborted) abort();
    }).finally(() => signal?.removeEventListener("abort", abort));
  }

  /**
   * Lets the worker put its things away, then ends it. Every call still waiting, and every later one,
   * fails with `reason`.
   *
   * @param {BiseError} reason
   */
  async close(reason) {
    if (this.#closed) return;
    const farewell = this.call({ type: "dispose" }).catch(() => {});
    this.#closed = reason;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    await Promise.race([farewell, new Promise((resolve) => { timer = setTimeout(resolve, GRACE_MS); })]);
    clearTimeout(timer);
    this.#end(reason);
  }

  /** @param {FromWorker} message */
  #receive(message) {
    this.#heard = true;
    if (message.type === "crashed") {
      this.#end(message.outOfMemory
        ? new BiseError("device-lost", "The engine crashed, by all appearances for want of memory: the browser gives it no more. Load the model again, with a shorter context or as a smaller model, or send less at once.")
        : new BiseError("device-lost", `The engine crashed: ${message.message} (the browser's console says more). Load the model again.`));
      return;
    }
    const waiting = this.#waiting.get(message.id);
    if (waiting === undefined) return;
    switch (message.type) {
      case "progress":
      case "merging":
      case "tensor":
      case "benching":
      case "delta":
      case "keeping":
        waiting.onEvent(message);
        return;
      case "done":
        this.#waiting.delete(message.id);
        waiting.resolve(message.value);
        return;
      case "error": {
        this.#waiting.delete(message.id);
        if (message.gpuLost) this.#onGpuLost();
        const error = new BiseError(message.error.code, message.error.message);
        waiting.reject(error);
        // The device takes every engine state with it: nothing in this worker will work again.
        if (error.code === "device-lost") this.#end(error);
      }
    }
  }

  /** @param {BiseError} reason */
  #end(reason) {
    this.#closed ??= reason;
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) reject(reason);
    this.#waiting.clear();
  }
}
