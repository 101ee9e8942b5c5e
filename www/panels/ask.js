/** One reply, streamed: a chat where the model has a template, else a plain continuation. */

/** @typedef {import("../pkg/index.js").Engine} Engine */
/** @typedef {{ role: "user" | "assistant", content: string }} Message */

/**
 * @param {Engine} engine
 * @param {Message[]} messages
 * @param {Record<string, number | string[]>} options of the request
 * @param {AbortSignal} signal
 */
export async function* ask(engine, messages, options, signal) {
  const asked = {
    ...defaults(engine), ...options, stream: /** @type {const} */ (true), stream_options: { include_usage: true, continuous_usage_stats: true }, signal,
  };
  const stream = engine.info.chat
    ? await engine.chat.completions.create({ ...asked, messages })
    : await engine.completions.create({ ...asked, prompt: messages.map(({ content }) => content).join("\n") });
  for await (const { choices: [choice], usage, timings } of stream) {
    const piece = choice === undefined ? "" : "delta" in choice ? choice.delta.content ?? "" : choice.text;
    yield { piece, usage, timings };
  }
}

/**
 * A small context leaves room for more than one reply.
 *
 * @param {Engine} engine
 * @returns {Record<string, number>}
 */
function defaults({ info: { contextLength } }) {
  return contextLength <= 1024 ? { max_tokens: Math.floor(contextLength / 4) } : {};
}
