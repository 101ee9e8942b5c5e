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
    await new Promise((resolve) => setTimeout(resolve, asked + backoffMs * 2 ** (attempt - 1) * (0.5 + 0.5 * Math.random())));
  }
  /** @type {any} */
  const body = await answer.json().catch(() => null);
  if (typeof body?.sha !== "string" || !Array.isArray(body.siblings)) return null;
  /** @type {Record<string, string>} */
  const hashes = {};
  for (const { rfilename, lfs } of body.siblings) {
    const hash = lfs?.sha256;
    if (typeof rfilename === "string" && rfilename.endsWith(".safetensors") && isHash(hash)) hashes[rfilename] = hash.toLowerCase();
  }
  return { sha: body.sha, hashes };
}

/**
 * Whether the files are still those that an entry was made from, by HEAD requests.
 *
 * @param {Record<string, KnownFile>} files
 * @param {Place} place
 * @param {AbortSignal} signal
 * @returns {Promise<boolean | "unreachable">} "unreachable" also where the server would not say: without a token, or to HEAD
 */
export async function isUnchanged(files, { base, headers = {} }, signal) {
  const url = new URL(base);
  const results = await Promise.all(Object.entries(files).map(async ([file, known]) => {
    const path = file.split("/").map(encodeURIComponent).join("/");
    const answer = await ask(`${withoutQuery(base)}${path}${url.search}`, { method: "HEAD", cache: "no-cache", headers, signal });
    if (typeof answer === "string" || !answer.ok) return "unreachable";
    if (known.validator === null) return false;
    const told = [answer.headers.get("etag"), answer.headers.get("last-modified")].filter((each) => each !== null);
    const length = answer.headers.get("content-encoding") === null ? answer.headers.get("content-length") : null;
    return told.includes(known.validator) && (length === null || known.bytes === null || Number(length) === known.bytes);
  }));
  if (results.includes(false)) return false;
  return results.includes("unreachable") ? "unreachable" : results.length > 0;
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
