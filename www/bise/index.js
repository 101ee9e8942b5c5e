/** bise: Mistral-family language models in a browser tab, on WebGPU. */

export { Engine } from "./engine.js";
export { BiseError, ERROR_CODES } from "./errors.js";
export { HUB_URL } from "./model.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./model.js").LoadOptions} LoadOptions */
/** @typedef {import("./protocol.js").Progress} Progress */
/** @typedef {import("./protocol.js").Info} Info */
/** @typedef {import("./errors.js").ErrorCode} ErrorCode */
/** @typedef {import("./openai.js").ChatParams} ChatParams */
/** @typedef {import("./openai.js").ChatCompletion} ChatCompletion */
/** @typedef {import("./openai.js").ChatCompletionChunk} ChatCompletionChunk */
/** @typedef {import("./openai.js").TextParams} TextParams */
/** @typedef {import("./openai.js").TextCompletion} TextCompletion */
