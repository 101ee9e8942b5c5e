/** Checks of what callers pass: no option is silently ignored. */

import { badRequest } from "./errors.js";

/**
 * Rejects unknown names, and drops what is undefined or null (clients send null for "default").
 *
 * @param {unknown} given
 * @param {readonly string[]} known
 * @param {string} what
 * @returns {Record<string, unknown>}
 */
export function checkNames(given, known, what) {
  if (given === undefined || given === null) return {};
  if (typeof given !== "object" || Array.isArray(given)) {
    throw badRequest(`${what} must be an object, not ${describe(given)}.`);
  }
  const present = Object.entries(given).filter(([, value]) => value !== undefined && value !== null);
  for (const [name] of present) {
    if (!known.includes(name)) {
      throw badRequest(`${what}: there is no "${name}"; the nearest is "${nearest(name, known)}". Known: ${known.join(", ")}.`);
    }
  }
  return Object.fromEntries(present);
}

/**
 * The known name that begins so, else the one that takes the fewest edits.
 *
 * @param {string} name
 * @param {readonly string[]} known
 */
export function nearest(name, known) {
  const plain = (/** @type {string} */ text) => text.toLowerCase().replaceAll(/[^a-z0-9]/g, "");
  const wanted = plain(name);
  const begun = wanted === "" ? undefined : known.find((each) => plain(each).startsWith(wanted));
  if (begun !== undefined) return begun;
  const ranked = known.map((each) => ({ each, edits: distance(wanted, plain(each)) }));
  ranked.sort((a, b) => a.edits - b.edits);
  return ranked[0]?.each ?? "";
}

/**
 * Levenshtein distance.
 *
 * @param {string} a
 * @param {string} b
 */
function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const above = row;
    row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const substitute = (above[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitute, (above[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
  }
  return row[b.length] ?? 0;
}

/**
 * Checks the kind of one value. Ranges are the engine's business.
 *
 * @param {string} name
 * @param {unknown} value
 * @param {"number" | "count" | "boolean" | "string" | "function" | "signal"} kind
 */
export function checkKind(name, value, kind) {
  const [fits, wanted] = /** @type {const} */ ({
    number: [Number.isFinite(value), "a finite number"],
    count: [Number.isSafeInteger(value) && Number(value) >= 0, "a whole number from 0 to 2^53 - 1"],
    boolean: [typeof value === "boolean", "true or false"],
    string: [typeof value === "string", "a string"],
    function: [typeof value === "function", "a function"],
    signal: [value instanceof AbortSignal, "an AbortSignal"],
  })[kind];
  if (!fits) throw badRequest(`${name} must be ${wanted}, not ${describe(value)}.`);
}

/**
 * Checks that a value, if given, is one of some words.
 *
 * @param {string} name
 * @param {unknown} value
 * @param {string[]} choices
 */
export function oneOf(name, value, choices) {
  if (value === undefined || choices.some((choice) => choice === value)) return;
  throw badRequest(`${name} must be ${choices.map((each) => `"${each}"`).join(" or ")}, not ${describe(value)}.`);
}

/** @param {unknown} value */
export function describe(value) {
  if (Array.isArray(value)) return `an array of ${value.length}`;
  if (typeof value === "string") return JSON.stringify(value.length > 60 ? `${value.slice(0, 60)}...` : value);
  if (typeof value === "object" && value !== null) return "an object";
  return typeof value === "function" ? "a function" : String(value);
}
