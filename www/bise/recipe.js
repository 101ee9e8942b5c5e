/** Reading recipes without merging: for editors. */

import { Bridge } from "./bridge.js";
import { checkKind } from "./options.js";
import { spawnWorker } from "./spawn.js";

/** @typedef {import("./protocol.js").RecipeOutline} RecipeOutline */

/** Stays for the page's lifetime, so that a recipe is read at every keystroke. @type {Bridge | null} */
let bridge = null;

/**
 * What a recipe says, as plain data. Needs no model and no WebGPU.
 *
 * @param {string} recipe mergekit YAML
 * @returns {Promise<RecipeOutline>}
 * @throws {BiseError} `bad-recipe`, with the place
 */
export async function recipeOutline(recipe) {
  checkKind("recipe", recipe, "string");
  if (bridge === null || bridge.closed) bridge = new Bridge(spawnWorker());
  return bridge.call({ type: "outline", recipe });
}

/** @typedef {import("./errors.js").BiseError} BiseError */
