/** A streamed response: an async iterable that ends its generation when nobody reads on. */

/**
 * @template T
 * @implements {AsyncIterableIterator<T>}
 */
export class CompletionStream {
  /** @type {T[]} */
  #ready = [];
  #ended = false;
  /** @type {unknown} */
  #error = undefined;
  #wake = () => {};
  #controller = new AbortController();

  /**
   * Starts at once: what comes before anybody reads is kept.
   *
   * @param {(push: (chunks: T[]) => void, signal: AbortSignal) => Promise<void>} produce
   * @param {AbortSignal} [signal]
   */
  constructor(produce, signal) {
    const abort = () => this.#controller.abort(signal?.reason);
    signal?.addEventListener("abort", abort, { once: true });
    if (signal?.aborted) abort();
    const push = (/** @type {T[]} */ chunks) => {
      this.#ready.push(...chunks);
      this.#wake();
    };
    produce(push, this.#controller.signal)
      .catch((thrown) => { this.#error = thrown; })
      .finally(() => {
        this.#ended = true;
        signal?.removeEventListener("abort", abort);
        this.#wake();
      });
  }

  /** Ends the generation; reading on then throws a BiseError with code `aborted`. */
  abort() {
    this.#controller.abort();
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** @returns {Promise<IteratorResult<T, undefined>>} */
  async next() {
    for (;;) {
      const chunk = this.#ready.shift();
      if (chunk !== undefined) return { done: false, value: chunk };
      if (this.#ended) break;
      await new Promise((resolve) => { this.#wake = () => resolve(undefined); });
    }
    const error = this.#error;
    this.#error = undefined;
    if (error !== undefined) throw error;
    return { done: true, value: undefined };
  }

  /**
   * What `break` in a `for await` calls.
   *
   * @returns {Promise<IteratorResult<T, undefined>>}
   */
  async return() {
    this.#ready = [];
    this.#ended = true;
    this.#controller.abort();
    return { done: true, value: undefined };
  }
}
