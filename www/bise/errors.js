/** The one error class of the package. */

/**
 * @typedef {"no-webgpu" | "unsupported-browser" | "device-lost" | "out-of-memory" | "unsupported-model" | "bad-checkpoint"
 *   | "bad-recipe" | "bad-request" | "network" | "integrity" | "quota" | "aborted"} ErrorCode
 */

/** @type {readonly ErrorCode[]} */
export const ERROR_CODES = Object.freeze([
  "no-webgpu", "unsupported-browser", "device-lost", "out-of-memory", "unsupported-model", "bad-checkpoint",
  "bad-recipe", "bad-request", "network", "integrity", "quota", "aborted",
]);

/** Every failure of the package. `code` is stable; `message` says what, where, and what to do. */
export class BiseError extends Error {
  /**
   * @param {ErrorCode} code
   * @param {string} message
   * @param {{ cause?: unknown }} [options]
   */
  constructor(code, message, options) {
    super(message, options);
    this.name = "BiseError";
    /** @type {ErrorCode} */
    this.code = code;
  }
}

/**
 * A plain copy that can cross from a worker. Anything without one of our codes (a trap, a failed
 * import, a fault in this package) gets `fallback`.
 *
 * @param {unknown} thrown
 * @param {ErrorCode} fallback
 * @returns {{ code: ErrorCode, message: string }}
 */
export function toPlain(thrown, fallback) {
  const { code, message } = /** @type {{ code?: unknown, message?: unknown }} */ (
    typeof thrown === "object" && thrown !== null ? thrown : {}
  );
  const known = ERROR_CODES.find((each) => each === code);
  return { code: known ?? fallback, message: typeof message === "string" ? message : String(thrown) };
}

/**
 * The error that stands for an aborted signal.
 *
 * @param {AbortSignal} signal
 * @param {string} what
 */
export function abortError(signal, what) {
  return new BiseError("aborted", `${what} was aborted.`, { cause: signal.reason });
}

/** @param {string} message */
export function badRequest(message) {
  return new BiseError("bad-request", message);
}
