/** What tuning has chosen in this browser, beside the kept models: one small file that saves measuring again. */

import { TUNINGS_FILE, changeJson, openStore, readJson } from "./store.js";

/** @typedef {Record<string, unknown>} Tunings choices by what they hold for */

/** More than this are not kept: they are of other versions, drivers and models. */
const MOST_ENTRIES = 64;

/** @returns {Promise<Tunings>} empty where nothing is remembered, or may be */
export async function readTunings() {
  try {
    const store = await openStore(false);
    const tunings = store && await readJson(store, TUNINGS_FILE);
    return isTunings(tunings) ? tunings : {};
  } catch {
    return {};
  }
}

/**
 * Remembers what a load has timed.
 *
 * @param {import("./protocol.js").Info["tuning"]} tuning
 */
export async function noteTuning({ state, key, choice }) {
  if (state !== "timed") return;
  try {
    const store = /** @type {FileSystemDirectoryHandle} */ (await openStore(true));
    await changeJson(store, TUNINGS_FILE, "bise-tuning", (held) => {
      const tunings = isTunings(held) && Object.keys(held).length < MOST_ENTRIES ? held : {};
      return { ...tunings, [key]: choice };
    });
  } catch {
    // Nothing is lost but the time to measure again.
  }
}

/**
 * @param {unknown} value
 * @returns {value is Tunings}
 */
function isTunings(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
