/** `chat.completions.create` and `completions.create`. */

import { chatChunks, chatCompletion, fromChat, fromText, newMeta, textChunks, textCompletion } from "./openai.js";
import { CompletionStream } from "./stream.js";

/** @typedef {import("./openai.js").ChatParams} ChatParams */
/** @typedef {import("./openai.js").ChatCompletion} ChatCompletion */
/** @typedef {import("./openai.js").ChatCompletionChunk} ChatCompletionChunk */
/** @typedef {import("./openai.js").TextParams} TextParams */
/** @typedef {import("./openai.js").TextCompletion} TextCompletion */
/** @typedef {import("./openai.js").Translated} Translated */
/** @typedef {import("./protocol.js").Output} Output */

/**
 * Runs one request on the engine.
 * @typedef {object} Runner
 * @property {string} name what responses call the model
 * @property {() => void} assertUsable throws if the engine is disposed or lost
 * @property {(request: import("./protocol.js").Request, onDelta: (delta: import("./protocol.js").Delta) => void,
 *   signal: AbortSignal | undefined) => Promise<Output>} generate
 */

export class ChatCompletions {
  #runner;

  /** @param {Runner} runner */
  constructor(runner) {
    this.#runner = runner;
  }

  /**
   * Answers a conversation.
   *
   * @overload
   * @param {ChatParams & { stream: true }} params
   * @returns {Promise<CompletionStream<ChatCompletionChunk>>}
   */
  /**
   * @overload
   * @param {ChatParams & { stream?: false | null }} params
   * @returns {Promise<ChatCompletion>}
   */
  /**
   * @param {ChatParams & { stream?: boolean | null }} params
   * @returns {Promise<ChatCompletion | CompletionStream<ChatCompletionChunk>>}
   */
  async create(params) {
    this.#runner.assertUsable();
    const translated = fromChat(params);
    const meta = newMeta("chatcmpl", this.#runner.name);
    if (translated.stream) return streamed(this.#runner, translated, chatChunks(meta, translated.usage));
    return chatCompletion(meta, await this.#runner.generate(translated.request, () => {}, translated.signal));
  }
}

export class Completions {
  #runner;

  /** @param {Runner} runner */
  constructor(runner) {
    this.#runner = runner;
  }

  /**
   * Continues a text, or a list of token ids.
   *
   * @overload
   * @param {TextParams & { stream: true }} params
   * @returns {Promise<CompletionStream<TextCompletion>>}
   */
  /**
   * @overload
   * @param {TextParams & { stream?: false | null }} params
   * @returns {Promise<TextCompletion>}
   */
  /**
   * @param {TextParams & { stream?: boolean | null }} params
   * @returns {Promise<TextCompletion | CompletionStream<TextCompletion>>}
   */
  async create(params) {
    this.#runner.assertUsable();
    const translated = fromText(params);
    const meta = newMeta("cmpl", this.#runner.name);
    if (translated.stream) return streamed(this.#runner, translated, textChunks(meta, translated.usage));
    return textCompletion(meta, await this.#runner.generate(translated.request, () => {}, translated.signal));
  }
}

/**
 * @template T
 * @param {Runner} runner
 * @param {Translated} translated
 * @param {{ first: () => T[], next: (delta: import("./protocol.js").Delta) => T[], last: (output: Output) => T[] }} chunks
 * @returns {CompletionStream<T>}
 */
function streamed(runner, { request, signal: outer }, chunks) {
  return new CompletionStream(async (push, signal) => {
    let begun = false;
    const begin = () => {
      if (!begun) push(chunks.first());
      begun = true;
    };
    const output = await runner.generate(request, (delta) => {
      begin();
      push(chunks.next(delta));
    }, signal);
    begin();
    push(chunks.last(output));
  }, outer);
}
