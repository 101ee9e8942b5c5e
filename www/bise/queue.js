/** One thing at a time, in the order of asking. */

import { abortError } from "./errors.js";

export class Queue {
  /** Settles when everything asked for so far has ended. @type {Promise<unknown>} */
  #tail = Promise.resolve();

  /**
   * Runs `task` when all earlier ones have ended. An abort rejects at once; a task that still waits
   * is then never run, and one that runs keeps its place until it has really ended.
   *
   * @template T
   * @param {() => Promise<T>} task
   * @param {AbortSignal} [signal]
   * @returns {Promise<T>}
   */
  run(task, signal) {
    const turn = this.#tail.then(() => {
      if (signal?.aborted) throw abortError(signal, "The request");
      return task();
    });
    this.#tail = turn.catch(() => {});
    return signal ? orAbort(turn, signal, "The request") : turn;
  }
}

/**
 * The promise's outcome, or an abort if that comes first.
 *
 * @template T
 * @param {Promise<T>} promise
 * @param {AbortSignal} signal
 * @param {string} what
 * @returns {Promise<T>}
 */
export function orAbort(promise, signal, what) {
  return new Promise((resolve, reject) => {
    const abort = () => reject(abortError(signal, what));
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}
