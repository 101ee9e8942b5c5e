/** A streamed response: an async iterable that ends its generation when nobody reads on. */

/**
 * @template T
 * @typedef {IteratorResult<T, undefined>} Result
 */

/**
 * @template T
 * @implements {AsyncIterableIterator<T>}
 */
export class CompletionStream {
  /** Chunks that nobody has read yet. @type {T[]} */
  #ready = [];
  /** Resolve calls of `next` that came before their chunk. @type {((result: Result<T> | Promise<Result<T>>) => void)[]} */
  #waiting = [];
  #ended = false;
  /** Thrown once, at the end. @type {unknown} */
  #error = undefined;
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
    produce((chunks) => this.#push(chunks), this.#controller.signal)
      .catch((thrown) => { if (!this.#ended) this.#error = thrown; })
      .finally(() => {
        signal?.removeEventListener("abort", abort);
        this.#end();
      });
  }

  /** Ends the generation; reading on then throws a BiseError with code `aborted`. */
  abort() {
    this.#controller.abort();
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /**
   * May be called again before the last call's chunk is there: chunks go to calls in order.
   *
   * @returns {Promise<Result<T>>}
   */
  async next() {
    const chunk = this.#ready.shift();
    if (chunk !== undefined) return { done: false, value: chunk };
    if (this.#ended) return this.#last();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /**
   * What `break` in a `for await` calls.
   *
   * @returns {Promise<Result<T>>}
   */
  async return() {
    this.#ready = [];
    this.#controller.abort();
    this.#end();
    return { done: true, value: undefined };
  }

  /** @param {T[]} chunks */
  #push(chunks) {
    if (this.#ended) return;
    for (const value of chunks) {
      const resolve = this.#waiting.shift();
      if (resolve) resolve({ done: false, value });
      else this.#ready.push(value);
    }
  }

  #end() {
    this.#ended = true;
    for (const resolve of this.#waiting.splice(0)) resolve(this.#last());
  }

  /** @returns {Promise<Result<T>>} */
  async #last() {
    const error = this.#error;
    this.#error = undefined;
    if (error !== undefined) throw error;
    return { done: true, value: undefined };
  }
}
