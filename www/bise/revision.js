/** Which revision of a model a server has, told by small requests: never one for weights. */

/** @typedef {import("./store.js").KnownFile} KnownFile */
/** @typedef {{ base: string, headers?: Record<string, string> }} Place */

/**
 * What the hub says of a revision: its commit, and the SHA-256 of its large files.
 * @typedef {{ sha: string, hashes: Record<string, string> }} HubRevision
 */

/**
 * Asks the hub which commit a revision is. A page cannot see this on the files' own answers: they are redirects.
 *
 * @param {Place} place
 * @param {AbortSignal} signal
 * @returns {Promise<HubRevision | "unreachable" | null>} null where there is no hub
 */
export async function hubRevision({ base, headers = {} }, signal) {
  const parts = /^(.+)\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/$/.exec(withoutQuery(base));
  if (parts === null) return null;
  const [, hub, name, revision] = parts;
  const answer = await ask(`${hub}/api/models/${name}/revision/${revision}?blobs=true`, { headers, signal });
  if (answer === "unreachable" || answer === null) return answer;
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
 * @returns {Promise<boolean | "unreachable">}
 */
export async function isUnchanged(files, { base, headers = {} }, signal) {
  const url = new URL(base);
  const results = await Promise.all(Object.entries(files).map(async ([file, known]) => {
    const path = file.split("/").map(encodeURIComponent).join("/");
    const answer = await ask(`${withoutQuery(base)}${path}${url.search}`, { method: "HEAD", cache: "no-cache", headers, signal });
    if (answer === "unreachable") return answer;
    if (answer === null || known.validator === null) return false;
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
 * @returns {Promise<Response | "unreachable" | null>} null where the server has no such thing
 */
async function ask(url, init) {
  let answer;
  try {
    answer = await fetch(url, init);
  } catch (thrown) {
    if (init.signal.aborted) throw thrown;
    return "unreachable";
  }
  if (answer.ok) return answer;
  return answer.status === 429 || answer.status >= 500 ? "unreachable" : null;
}
