/** Which revision of a model a server has, told by small requests: never one for weights. */

/** @typedef {import("./store.js").KnownFile} KnownFile */
/** @typedef {{ base: string, headers?: Record<string, string>, network?: { attempts?: number, backoffMs?: number } }} Place */

/** How often the hub is asked, the first pause between, and the longest that it may ask for. */
const ATTEMPTS = 3;
const BACKOFF_MS = 500;
const LONGEST_PAUSE_MS = 10_000;

/**
 * What the hub says of a revision: its commit, and the SHA-256 of its large files.
 * @typedef {{ sha: string, hashes: Record<string, string> }} HubRevision
 */

/**
 * Asks the hub which commit a revision is. A page cannot see this on the files' own answers: they are redirects.
 *
 * @param {Place} place
 * @param {AbortSignal} signal
 * @returns {Promise<HubRevision | "unreachable" | null>} null where there is no hub; "unreachable" where it would not say
 */
export async function hubRevision({ base, headers = {}, network = {} }, signal) {
  const parts = /^(.+)\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/$/.exec(withoutQuery(base));
  if (parts === null) return null;
  const [, hub, name, revision] = parts;
  const { attempts = ATTEMPTS, backoffMs = BACKOFF_MS } = network;
  let answer = null;
  for (let attempt = 1; ; attempt += 1) {
    answer = await ask(`${hub}/api/models/${name}/revision/${revision}?blobs=true`, { headers, signal });
    if (typeof answer === "string") return answer;
    if (answer.ok) break;
    if (answer.status === 404) return null;
    const mayPass = answer.status === 429 || answer.status >= 500;
    const asked = Number(answer.headers.get("retry-after") ?? 0) * 1000 || 0;
    if (!mayPass || attempt >= Math.min(attempts, ATTEMPTS) || asked > LONGEST_PAUSE_MS) return "unreachable";
    await pause(asked + backoffMs * 2 ** (attempt - 1) * (0.5 + 0.5 * Math.random()), signal);
  }
  /** @type {any} */
  const body = await answer.json().catch(() => null);
  if (typeof body?.sha !== "string" || !Array.isArray(body.siblings)) return null;
  /** @type {Record<string, string>} */
  const hashes = {};
  for (const { rfilename, lfs } of body.siblings) {
    const hash = lfs?.sha256;
    if (typeof rfilename === "string" && isWeights(rfilename) && isHash(hash)) hashes[rfilename] = hash.toLowerCase();
  }
  return { sha: body.sha, hashes };
}

/**
 * Whether the files are still those that an entry was made from, by HEAD requests. Small files of which the server
 * tells nothing go with the weights.
 *
 * @param {Record<string, KnownFile>} files
 * @param {Place} place
 * @param {AbortSignal} signal
 * @returns {Promise<boolean | "unreachable">} "unreachable" also where the server would not say: without a token, or to HEAD
 */
export async function isUnchanged(files, place, signal) {
  const told = Object.entries(files).filter(([file, { validator }]) => validator !== null || isWeights(file));
  if (told.length === 0 || told.some(([, { validator }]) => validator === null)) return false;
  const results = await Promise.all(told.map(async ([file, known]) => {
    const answer = await head(file, place, signal);
    if (typeof answer === "string" || !answer.ok) return "unreachable";
    const length = answer.headers.get("content-encoding") === null ? answer.headers.get("content-length") : null;
    return versions(answer).includes(/** @type {string} */ (known.validator)) && (length === null || known.bytes === null || Number(length) === known.bytes);
  }));
  if (results.includes(false)) return false;
  return results.includes("unreachable") ? "unreachable" : true;
}

/**
 * The files, with what HEAD tells of those of which their own answers told nothing: a server may compress small files,
 * and what it says of a compressed one counts only among its like.
 *
 * @param {Record<string, KnownFile>} files
 * @param {Place} place
 * @param {AbortSignal} signal
 * @returns {Promise<Record<string, KnownFile>>}
 */
export async function withVersions(files, place, signal) {
  const entries = await Promise.all(Object.entries(files).map(async ([file, known]) => {
    if (known.validator !== null || isWeights(file)) return [file, known];
    const answer = await head(file, place, signal);
    const [validator = null] = typeof answer === "string" || !answer.ok ? [] : versions(answer);
    return [file, { ...known, validator, bytes: null }];
  }));
  return Object.fromEntries(entries);
}

/** @param {string} file */
export const isWeights = (file) => file.endsWith(".safetensors");

/** @param {Response} answer */
function versions({ headers }) {
  return [headers.get("etag"), headers.get("last-modified")].filter((each) => each !== null);
}

/**
 * @param {string} file
 * @param {Place} place
 * @param {AbortSignal} signal
 */
function head(file, { base, headers = {} }, signal) {
  const path = file.split("/").map(encodeURIComponent).join("/");
  return ask(`${withoutQuery(base)}${path}${new URL(base).search}`, { method: "HEAD", cache: "no-cache", headers, signal });
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal which ends it
 */
function pause(ms, signal) {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve(null);
    }, ms);
    signal.addEventListener("abort", stop, { once: true });
  });
}

/** @param {string} url */
export function withoutQuery(url) {
  return url.replace(/[?#].*$/, "");
}

/** @param {unknown} text */
export function isHash(text) {
  return typeof text === "string" && /^[0-9a-f]{64}$/i.test(text);
}

/**
 * @param {string} url
 * @param {RequestInit & { signal: AbortSignal }} init
 * @returns {Promise<Response | "unreachable">}
 */
async function ask(url, init) {
  try {
    return await fetch(url, init);
  } catch (thrown) {
    if (init.signal.aborted) throw thrown;
    return "unreachable";
  }
}
