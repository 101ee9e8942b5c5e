/** bise: Mistral-family language models in a browser tab, on WebGPU. */

export { Engine } from "./engine.js";
export { BiseError, ERROR_CODES } from "./errors.js";
export { HUB_URL } from "./model.js";
