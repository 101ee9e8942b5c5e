/** bise: Mistral-family language models in a browser tab, on WebGPU or on the processor. */

export { Engine } from "./engine.js";
export { bench } from "./bench.js";
export { cache } from "./cache.js";
export { inspect } from "./inspect.js";
export { merge } from "./merge.js";
export { save } from "./save.js";
export { recipeOutline } from "./recipe.js";
export { BiseError, ERROR_CODES } from "./errors.js";
export { HUB_URL } from "./model.js";

/** @typedef {import("./model.js").Model} Model */
/** @typedef {import("./model.js").LoadOptions} LoadOptions */
/** @typedef {import("./model.js").Models} Models */
/** @typedef {import("./bench.js").BenchOptions} BenchOptions */
/** @typedef {import("./protocol.js").BenchReport} BenchReport */
/** @typedef {import("./protocol.js").Figure} Figure */
/** @typedef {import("./inspect.js").InspectOptions} InspectOptions */
/** @typedef {import("./protocol.js").Inspection} Inspection */
/** @typedef {import("./model.js").Network} Network */
/** @typedef {import("./merge.js").MergeOptions} MergeOptions */
/** @typedef {import("./save.js").SaveOptions} SaveOptions */
/** @typedef {import("./protocol.js").MergeProgress} MergeProgress */
/** @typedef {import("./protocol.js").MergeReport} MergeReport */
/** @typedef {import("./protocol.js").TensorReport} TensorReport */
/** @typedef {import("./protocol.js").RecipeOutline} RecipeOutline */
/** @typedef {import("./protocol.js").Progress} Progress */
/** @typedef {import("./protocol.js").Waiting} Waiting */
/** @typedef {import("./protocol.js").Info} Info */
/** @typedef {import("./cache.js").CachedModel} CachedModel */
/** @typedef {import("./cache.js").PinnedModel} PinnedModel */
/** @typedef {import("./errors.js").ErrorCode} ErrorCode */
/** @typedef {import("./openai.js").ChatParams} ChatParams */
/** @typedef {import("./openai.js").ChatCompletion} ChatCompletion */
/** @typedef {import("./openai.js").ChatCompletionChunk} ChatCompletionChunk */
/** @typedef {import("./openai.js").TextParams} TextParams */
/** @typedef {import("./openai.js").TextCompletion} TextCompletion */
