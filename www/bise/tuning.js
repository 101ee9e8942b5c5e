/** What tuning has chosen in this browser, beside the kept models: one small file that saves measuring again. */

import { TUNINGS_FILE, changeJson, openStore } from "./store.js";

/** More than this are not kept: they are of other versions, drivers and models. */
const MOST_ENTRIES = 64;

/** @returns {Promise<string>} the file's text: the engine takes of it what it understands; empty where there is none */
export async function readTunings() {
  try {
    const handle = await (await openStore(false))?.getFileHandle(TUNINGS_FILE);
    return await (await handle?.getFile())?.text() ?? "";
  } catch {
    return "";
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
      const tunings = typeof held === "object" && held !== null && !Array.isArray(held) ? held : {};
      return { ...(Object.keys(tunings).length < MOST_ENTRIES ? tunings : {}), [key]: choice };
    });
  } catch {
    // Nothing is lost but the time to measure again.
  }
}
