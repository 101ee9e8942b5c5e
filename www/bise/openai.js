/** OpenAI's request and response shapes <-> the engine's own. Pure functions. */

import { badRequest } from "./errors.js";
import { checkKind, checkNames, describe } from "./options.js";

/** @typedef {import("./protocol.js").Request} EngineRequest */
/** @typedef {import("./protocol.js").Output} Output */
/** @typedef {import("./protocol.js").Delta} Delta */
/** @typedef {import("./protocol.js").TokenLogprob} TokenLogprob */
/** @typedef {import("./protocol.js").Timings} Timings */

/**
 * Sampling and limits, of both kinds of request. Left out: what the checkpoint's
 * generation_config.json says, else the neutral value.
 *
 * @typedef {object} CommonParams
 * @property {number | null} [temperature] 0 is greedy
 * @property {number | null} [top_p]
 * @property {number | null} [top_k] 0: all tokens
 * @property {number | null} [min_p]
 * @property {number | null} [max_tokens]
 * @property {string | string[] | null} [stop]
 * @property {number | null} [seed]
 * @property {Record<string, number> | null} [logit_bias] by token id
 * @property {number | null} [repetition_penalty]
 * @property {number | null} [frequency_penalty]
 * @property {number | null} [presence_penalty]
 * @property {boolean | null} [ignore_eos]
 * @property {{ include_usage?: boolean, continuous_usage_stats?: boolean } | null} [stream_options] usage in a last
 *   chunk, or, as in vLLM, in every chunk that a token gave
 * @property {AbortSignal | null} [signal]
 * @property {string | null} [model] any: there is one model per engine
 * @property {string | null} [user] any: nobody is told
 * @property {1 | null} [n]
 */

/**
 * @typedef {{ type: "text", text: string }} TextPart
 * @typedef {{ role: string, content: string | TextPart[] }} MessageParam
 * @typedef {CommonParams & {
 *   messages: MessageParam[], max_completion_tokens?: number | null,
 *   logprobs?: boolean | null, top_logprobs?: number | null }} ChatParams
 * @typedef {CommonParams & { prompt: string | number[], logprobs?: number | null }} TextParams
 */

/** @typedef {{ prompt_tokens: number, completion_tokens: number, total_tokens: number }} Usage */
/** @typedef {{ id: string, created: number, model: string }} Meta */
/** @typedef {"stop" | "length"} FinishReason */

/**
 * @typedef {{ token: string, logprob: number, bytes: number[] }} ChatAlternative
 * @typedef {{ content: (ChatAlternative & { top_logprobs: ChatAlternative[] })[] }} ChatLogprobs
 * @typedef {{ index: 0, message: { role: "assistant", content: string }, finish_reason: FinishReason,
 *   logprobs: ChatLogprobs | null }} ChatChoice
 * @typedef {Meta & { object: "chat.completion", choices: ChatChoice[], usage: Usage, timings: Timings }} ChatCompletion
 * @typedef {{ index: 0, delta: { role?: "assistant", content?: string }, finish_reason: FinishReason | null,
 *   logprobs: ChatLogprobs | null }} ChatChunkChoice
 * @typedef {Meta & { object: "chat.completion.chunk", choices: ChatChunkChoice[], usage?: Usage | null,
 *   timings?: Timings }} ChatCompletionChunk
 */

/**
 * `text_offset` counts UTF-16 units of `text`, as JavaScript does; `token_ids` is an addition.
 * @typedef {{ tokens: string[], token_logprobs: number[], top_logprobs: Record<string, number>[] | null,
 *   text_offset: number[] }} TextLogprobs
 * @typedef {{ index: 0, text: string, finish_reason: FinishReason | null, logprobs: TextLogprobs | null,
 *   token_ids: number[] }} TextChoice
 * @typedef {Meta & { object: "text_completion", choices: TextChoice[], usage?: Usage | null,
 *   timings?: Timings }} TextCompletion
 */

/**
 * Which chunks of a stream tell the usage.
 * @typedef {"none" | "last" | "each"} UsageMode
 */

/**
 * A request, translated.
 * @typedef {object} Translated
 * @property {EngineRequest} request
 * @property {boolean} stream
 * @property {UsageMode} usage
 * @property {AbortSignal | undefined} signal
 */

/** Names that mean the same to the engine, and the kind of their value. */
const PLAIN = Object.freeze(/** @type {const} */ ({
  temperature: "number", top_p: "number", top_k: "count", min_p: "number", max_tokens: "count", seed: "count",
  repetition_penalty: "number", frequency_penalty: "number", presence_penalty: "number", ignore_eos: "boolean",
}));
const COMMON = Object.freeze([
  ...Object.keys(PLAIN), "stop", "logit_bias", "logprobs", "stream", "stream_options", "signal", "model", "user", "n",
]);
const CHAT = Object.freeze(["messages", "max_completion_tokens", "top_logprobs", ...COMMON]);
const TEXT = Object.freeze(["prompt", ...COMMON]);

/**
 * @param {unknown} params
 * @returns {Translated}
 */
export function fromChat(params) {
  const given = checkNames(params, CHAT, "chat completion");
  const { request, ...rest } = common(given);
  request.prompt = { messages: messages(given.messages) };
  if (given.max_completion_tokens !== undefined) {
    checkKind("max_completion_tokens", given.max_completion_tokens, "count");
    if (given.max_tokens !== undefined) throw badRequest("max_tokens and max_completion_tokens mean the same: give one.");
    request.max_tokens = Number(given.max_completion_tokens);
  }
  const { logprobs = false, top_logprobs: top = 0 } = given;
  checkKind("logprobs", logprobs, "boolean");
  checkKind("top_logprobs", top, "count");
  if (logprobs === true) request.logprobs = Number(top);
  else if (given.top_logprobs !== undefined) throw badRequest("top_logprobs needs logprobs: true.");
  return { request, ...rest };
}

/**
 * @param {unknown} params
 * @returns {Translated}
 */
export function fromText(params) {
  const given = checkNames(params, TEXT, "completion");
  const { request, ...rest } = common(given);
  request.prompt = prompt(given.prompt);
  if (given.logprobs !== undefined) {
    checkKind("logprobs", given.logprobs, "count");
    request.logprobs = Number(given.logprobs);
  }
  return { request, ...rest };
}

/** @param {Record<string, unknown>} given */
function common(given) {
  /** @type {Record<string, unknown>} */
  const request = {};
  for (const [name, kind] of Object.entries(PLAIN)) {
    if (given[name] === undefined) continue;
    checkKind(name, given[name], kind);
    request[name] = given[name];
  }
  if (given.stop !== undefined) request.stop = stops(given.stop);
  if (given.logit_bias !== undefined) request.logit_bias = biases(given.logit_bias);
  if (given.n !== undefined && given.n !== 1) throw badRequest(`n must be 1, not ${describe(given.n)}: ask again for another choice.`);
  for (const name of ["model", "user"]) if (given[name] !== undefined) checkKind(name, given[name], "string");
  const { stream = false, signal } = given;
  checkKind("stream", stream, "boolean");
  if (signal !== undefined) checkKind("signal", signal, "signal");
  if (given.stream_options !== undefined && stream !== true) throw badRequest("stream_options needs stream: true.");
  return {
    request: /** @type {EngineRequest} */ (/** @type {unknown} */ (request)),
    stream: stream === true,
    usage: usageMode(given.stream_options),
    signal: /** @type {AbortSignal | undefined} */ (signal),
  };
}

/**
 * @param {unknown} given stream_options
 * @returns {UsageMode}
 */
function usageMode(given) {
  const names = ["include_usage", "continuous_usage_stats"];
  const { include_usage: last = false, continuous_usage_stats: each = false } = checkNames(given, names, "stream_options");
  checkKind("stream_options.include_usage", last, "boolean");
  checkKind("stream_options.continuous_usage_stats", each, "boolean");
  if (each === true && last !== true) throw badRequest("stream_options.continuous_usage_stats needs include_usage: true.");
  if (each === true) return "each";
  return last === true ? "last" : "none";
}

/** @param {unknown} list */
function messages(list) {
  if (!Array.isArray(list) || list.length === 0) throw badRequest(`messages must be an array of at least one message, not ${describe(list)}.`);
  return list.map((message, i) => {
    const { role, content } = checkNames(message, ["role", "content"], `messages[${i}]`);
    checkKind(`messages[${i}].role`, role, "string");
    return { role: String(role), content: text(content, `messages[${i}].content`) };
  });
}

/**
 * A string, or OpenAI's list of parts, as far as they are text.
 *
 * @param {unknown} content
 * @param {string} where
 */
function text(content, where) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) throw badRequest(`${where} must be a string or an array of text parts, not ${describe(content)}.`);
  return content.map((part, i) => {
    if (part?.type !== "text" || typeof part.text !== "string") {
      throw badRequest(`${where}[${i}] must be { type: "text", text }: this engine reads text only.`);
    }
    return part.text;
  }).join("");
}

/**
 * @param {unknown} given
 * @returns {EngineRequest["prompt"]}
 */
function prompt(given) {
  if (typeof given === "string") return { text: given };
  if (!Array.isArray(given)) throw badRequest(`prompt must be a string or an array of token ids, not ${describe(given)}.`);
  given.forEach((id, i) => checkKind(`prompt[${i}]`, id, "count"));
  return { ids: given };
}

/** @param {unknown} given */
function stops(given) {
  const list = Array.isArray(given) ? given : [given];
  list.forEach((stop, i) => checkKind(Array.isArray(given) ? `stop[${i}]` : "stop", stop, "string"));
  return list;
}

/** @param {unknown} given */
function biases(given) {
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw badRequest(`logit_bias must be an object of token id: bias, not ${describe(given)}.`);
  }
  for (const [id, bias] of Object.entries(given)) checkKind(`logit_bias["${id}"]`, bias, "number");
  return given;
}

/**
 * @param {"chatcmpl" | "cmpl"} prefix
 * @param {string} model
 * @returns {Meta}
 */
export function newMeta(prefix, model) {
  // Not randomUUID: that exists on secure pages only.
  const random = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0"));
  return { id: `${prefix}-${random.join("")}`, created: Math.floor(Date.now() / 1000), model };
}

/**
 * @param {Output} output
 * @returns {Usage}
 */
export function usage(output) {
  const [prompt_tokens, completion_tokens] = [output.prompt_ids.length, output.ids.length];
  return { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens };
}

/**
 * What each chunk of one stream says of usage: nothing unless asked for, null where there is none yet.
 *
 * @param {UsageMode} mode
 * @returns {(delta?: Delta) => { usage?: Usage | null }}
 */
function runningUsage(mode) {
  let completion_tokens = 0;
  return (delta) => {
    if (mode === "none") return {};
    if (mode === "last" || delta === undefined) return { usage: null };
    if (delta.id !== null) completion_tokens += 1;
    const { prompt_tokens } = delta;
    return { usage: { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens } };
  };
}

/**
 * @param {Meta} meta
 * @param {Output} output
 * @returns {ChatCompletion}
 */
export function chatCompletion(meta, output) {
  return {
    ...meta,
    object: "chat.completion",
    choices: [{
      index: 0,
      message: { role: "assistant", content: output.text },
      finish_reason: output.finish_reason,
      logprobs: chatLogprobs(output.logprobs),
    }],
    usage: usage(output),
    timings: output.timings,
  };
}

/**
 * Makes the chunks of one streamed chat completion.
 *
 * @param {Meta} meta
 * @param {UsageMode} mode
 */
export function chatChunks(meta, mode) {
  const usageAt = runningUsage(mode);
  /**
   * @param {ChatChunkChoice["delta"]} delta
   * @param {FinishReason | null} finish_reason
   * @param {ChatLogprobs | null} logprobs
   * @param {Delta} [token] what the chunk is made of
   * @returns {ChatCompletionChunk}
   */
  const chunk = (delta, finish_reason, logprobs, token) => ({
    ...meta,
    object: "chat.completion.chunk",
    choices: [{ index: 0, delta, finish_reason, logprobs }],
    ...usageAt(token),
  });
  return {
    first: () => [chunk({ role: "assistant", content: "" }, null, null)],
    /** @param {Delta} delta */
    next: (delta) => (delta.text === "" && delta.logprobs === null && mode !== "each"
      ? []
      : [chunk({ content: delta.text }, null, delta.logprobs && chatLogprobs([delta.logprobs]), delta)]),
    /**
     * @param {Output} output
     * @returns {ChatCompletionChunk[]}
     */
    last: (output) => {
      const end = { ...chunk({}, output.finish_reason, null), timings: output.timings };
      return mode !== "none" ? [end, { ...end, choices: [], usage: usage(output) }] : [end];
    },
  };
}

/**
 * @param {TokenLogprob[] | null} logprobs
 * @returns {ChatLogprobs | null}
 */
function chatLogprobs(logprobs) {
  if (logprobs === null) return null;
  const plain = (/** @type {import("./protocol.js").Alternative} */ { token, logprob, bytes }) => ({ token, logprob, bytes });
  return { content: logprobs.map((each) => ({ ...plain(each), top_logprobs: each.top.map(plain) })) };
}

/**
 * @param {Meta} meta
 * @param {Output} output
 * @returns {TextCompletion}
 */
export function textCompletion(meta, output) {
  return {
    ...meta,
    object: "text_completion",
    choices: [{
      index: 0,
      text: output.text,
      finish_reason: output.finish_reason,
      logprobs: output.logprobs && textLogprobs(output.logprobs),
      token_ids: output.ids,
    }],
    usage: usage(output),
    timings: output.timings,
  };
}

/**
 * Makes the chunks of one streamed completion.
 *
 * @param {Meta} meta
 * @param {UsageMode} mode
 */
export function textChunks(meta, mode) {
  const usageAt = runningUsage(mode);
  /**
   * @param {Omit<TextChoice, "index">} choice
   * @param {Delta} [token] what the chunk is made of
   * @returns {TextCompletion}
   */
  const chunk = (choice, token) => ({
    ...meta,
    object: "text_completion",
    choices: [{ index: 0, ...choice }],
    ...usageAt(token),
  });
  return {
    first: () => /** @type {TextCompletion[]} */ ([]),
    /** @param {Delta} delta */
    next: (delta) => [chunk({
      text: delta.text,
      finish_reason: null,
      logprobs: delta.logprobs && textLogprobs([delta.logprobs]),
      token_ids: delta.id === null ? [] : [delta.id],
    }, delta)],
    /**
     * @param {Output} output
     * @returns {TextCompletion[]}
     */
    last: (output) => {
      const end = {
        ...chunk({ text: "", finish_reason: output.finish_reason, logprobs: null, token_ids: [] }),
        timings: output.timings,
      };
      return mode !== "none" ? [end, { ...end, choices: [], usage: usage(output) }] : [end];
    },
  };
}

/**
 * @param {TokenLogprob[]} logprobs
 * @returns {TextLogprobs}
 */
function textLogprobs(logprobs) {
  const any = logprobs.some(({ top }) => top.length > 0);
  return {
    tokens: logprobs.map(({ token }) => token),
    token_logprobs: logprobs.map(({ logprob }) => logprob),
    top_logprobs: any ? logprobs.map(({ top }) => Object.fromEntries(top.map(({ token, logprob }) => [token, logprob]))) : null,
    text_offset: logprobs.map(({ text_offset }) => text_offset),
  };
}
