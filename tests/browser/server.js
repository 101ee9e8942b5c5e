// A static server for the tests: HTTP ranges, a hub, faults on request, and a log of what was asked.

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile, readdir, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { gzipSync } from "node:zlib";
import { parseFault, planOf, readPart } from "./faults.js";

/**
 * @typedef {object} ServerOptions
 * @property {string} root folder behind `/`
 * @property {Record<string, string>} [mounts] further folders by path prefix, such as `{"/models/x/": "target/models/x"}`
 * @property {Record<string, Map<string, import("./synthetic.js").ComputedFile>>} [computed] files that are computed, by
 *   path prefix and name; no cache keeps them
 * @property {Record<string, string>} [hub] checkpoints by `owner/name`, answered as the Hugging Face hub does below
 *   `/owner/name/resolve/REVISION/`, and described below `/api/models/`
 * @property {string} [commit] what the hub says every revision is
 * @property {string} [damage] a file of this name has a bit flipped, and says nothing of it
 * @property {number} [bytesPerSecond] throttle of all bodies together
 * @property {(path: string) => number | undefined} [refuse] the status to refuse a path with
 * @property {(path: string) => string | null} [redirect] where to send the client instead
 * @property {boolean} [gzip] compress whole JSON files, as many static hosts do
 * @property {(path: string) => string | undefined} [etags] ETags that are not the files' own
 * @property {boolean | "plain"} [cors] allow other origins; "plain" as most static hosts do, which hides
 *   Content-Range and the like from the page
 */

/**
 * One request as it was answered.
 * @typedef {object} Logged
 * @property {string} method
 * @property {string} path with its query and any `/fault/...` prefix
 * @property {string | null} range the Range header
 * @property {string | null} authorization the Authorization header
 * @property {number} status
 * @property {number} bytes sent in the body
 */

/**
 * @typedef {object} Found
 * @property {string} name
 * @property {string | import("./synthetic.js").ComputedFile} file its path, or what computes it
 * @property {number} size
 * @property {string} etag
 * @property {boolean} hub
 */

/** @type {Record<string, string>} */
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".json": "application/json",
  ".wasm": "application/wasm",
  ".png": "image/png",
};

/**
 * Starts a server on a free port of this machine.
 * @param {ServerOptions} options
 */
export async function startServer(options) {
  /** @type {Logged[]} */
  const log = [];
  /** @type {Map<string, number>} */
  const strikes = new Map();
  const pace = { freeAt: 0 };
  const server = createServer((request, response) => {
    const { method = "GET", url: path = "/", headers } = request;
    /** @type {Logged} */
    const entry = { method, path, range: headers.range ?? null, authorization: headers.authorization ?? null, status: 0, bytes: 0 };
    log.push(entry);
    answer(options, { strikes, pace }, request, response, entry).catch((error) => {
      if (response.headersSent) response.destroy();
      else response.writeHead(500).end(String(error));
      entry.status = 500;
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(null)));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return {
    url: `http://localhost:${address.port}`,
    log,
    /** May be changed while it runs. */
    options,
    /**
     * The requests for files of this name.
     * @param {string} file
     */
    requestsFor: (file) => log.filter(({ path }) => (path.split("?")[0] ?? "").endsWith(`/${file}`)),
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(() => resolve(null)));
    },
  };
}

/**
 * @param {ServerOptions} options
 * @param {{ strikes: Map<string, number>, pace: { freeAt: number } }} state
 * @param {import("node:http").IncomingMessage} request
 * @param {import("node:http").ServerResponse} response
 * @param {Logged} entry
 */
async function answer(options, { strikes, pace }, request, response, entry) {
  const { path, fault } = parseFault(decodeURIComponent(entry.path.split("?")[0] ?? "/"));
  if (options.cors) {
    response.setHeader("Access-Control-Allow-Origin", "*");
  }
  if (options.cors === true) {
    response.setHeader("Access-Control-Allow-Headers", "Authorization, *"); // which * alone leaves out
    response.setHeader("Access-Control-Expose-Headers", "*");
  }
  /** @param {number} status @param {string} [body] @param {Record<string, string>} [headers] */
  const reply = (status, body = "", headers = {}) => {
    entry.status = status;
    entry.bytes = Buffer.byteLength(body);
    response.writeHead(status, { "Content-Type": "text/html; charset=utf-8", ...headers }).end(body);
  };
  if (request.method === "OPTIONS") return reply(204);
  if (path === "/favicon.ico") return reply(204);
  const refused = options.refuse?.(path);
  if (refused) return reply(refused);
  const described = await describeModel(options, path);
  if (described) return reply(200, JSON.stringify(described), { "Content-Type": "application/json" });
  const found = await locate(options, path);
  const name = path.split("/").pop() ?? "";
  const plan = planOf(strikesNow(strikes, fault, name, request.url) ? fault : null, found?.size ?? 0);
  if (plan.waitMs) await sleep(plan.waitMs);
  if (options.damage === name) plan.damageAt ??= Math.floor((found?.size ?? 0) * 0.9);
  if (plan.status) return reply(plan.status, `fault ${plan.status}`, plan.retryAfter ? { "Retry-After": plan.retryAfter } : {});
  const elsewhere = options.redirect?.(path);
  if (elsewhere) return reply(302, "", { Location: elsewhere });
  if (plan.page) return reply(200, "<!doctype html><title>Not here</title>");
  if (!found) return reply(404, "not found");
  if (plan.noHead && request.method === "HEAD") return reply(405);

  const size = plan.size ?? found.size;
  const headers = await headersOf(found, size, fault === null);
  if (plan.etag) headers.ETag = plan.etag;
  headers.ETag = options.etags?.(path) ?? headers.ETag ?? "";
  if (request.headers["if-none-match"] === headers.ETag && !entry.range) return reply(304, "", headers);
  // Browsers' caches ask so for the rest of what they have a part of.
  const isOther = "if-range" in request.headers && request.headers["if-range"] !== headers.ETag;
  const range = plan.ignoreRange || isOther ? null : parseRange(entry.range, size);
  if (range === "unsatisfiable") return reply(416, "", { "Content-Range": `bytes */${size}` });
  let [begin, end] = range ?? [0, size];
  if (plan.wrongRange && range && begin > 0) [begin, end] = [begin - 1, end - 1];
  if (!plan.ignoreRange) headers["Accept-Ranges"] = "bytes";
  if (!plan.noLength) headers["Content-Length"] = String(end - begin);
  if (range) headers["Content-Range"] = `bytes ${begin}-${end - 1}/${size}`;
  if (options.gzip && !range && typeof found.file === "string" && extname(found.name) === ".json") {
    headers["Content-Encoding"] = "gzip";
    headers.ETag = `W/${headers.ETag}`;
    delete headers["Content-Length"];
    entry.status = 200;
    response.writeHead(200, headers);
    response.end(request.method === "HEAD" ? undefined : gzipSync(await readFile(found.file)));
    return;
  }
  entry.status = range ? 206 : 200;
  response.writeHead(entry.status, headers);
  if (request.method === "HEAD") return void response.end();
  // A connection that breaks before its answer is tried again by browsers themselves.
  response.flushHeaders();

  const stop = begin + (plan.cutAfter?.(end - begin) ?? end - begin);
  for await (const chunk of readPart(found.file, begin, stop, plan)) {
    if (response.destroyed) return;
    entry.bytes += chunk.length;
    if (!response.write(chunk)) await drained(response);
    if (options.bytesPerSecond) await keepPace(pace, chunk.length, options.bytesPerSecond);
  }
  if (plan.stall) return;
  if (plan.cutAfter) {
    await sleep(plan.idle ? 400 : 50); // let what was written leave first
    response.destroy();
    return;
  }
  response.end();
}

/**
 * Until the line has carried that many bytes. Timers are late by a millisecond or so: the next ones make up for it.
 * @param {{ freeAt: number }} pace
 * @param {number} bytes
 * @param {number} bytesPerSecond
 */
async function keepPace(pace, bytes, bytesPerSecond) {
  const now = performance.now();
  pace.freeAt = Math.max(pace.freeAt, now - 20) + (bytes / bytesPerSecond) * 1000;
  if (pace.freeAt > now) await sleep(pace.freeAt - now);
}

/**
 * Until more can be written, or nobody listens any more.
 * @param {import("node:http").ServerResponse} response
 */
function drained(response) {
  return new Promise((resolve) => {
    const done = () => resolve(response.off("drain", done).off("close", done));
    response.on("drain", done).on("close", done);
  });
}

/**
 * Whether the fault strikes this request; counts it if so.
 * @param {Map<string, number>} strikes
 * @param {import("./faults.js").Fault | null} fault
 * @param {string} name
 * @param {string | undefined} url
 */
function strikesNow(strikes, fault, name, url = "") {
  if (!fault || (fault.file !== "*" && fault.file !== name)) return false;
  const before = strikes.get(url) ?? 0;
  strikes.set(url, before + 1);
  return fault.from <= before && before < fault.until;
}

/**
 * The file behind a path.
 * @param {ServerOptions} options
 * @param {string} path
 * @returns {Promise<Found | null>}
 */
async function locate(options, path) {
  for (const [prefix, files] of Object.entries(options.computed ?? {})) {
    const name = path.slice(prefix.length);
    const file = path.startsWith(prefix) ? files.get(name) : undefined;
    if (file) return { name, file, size: file.size, etag: `"${name}"`, hub: false };
  }
  let clean = normalize(path);
  if (clean.endsWith("/")) clean += "index.html";
  let file = join(options.root, clean);
  const hub = /^\/([^/]+\/[^/]+)\/resolve\/[^/]+\/(.+)$/.exec(clean);
  const checkpoint = hub?.[1] ? options.hub?.[hub[1]] : undefined;
  const mount = Object.entries(options.mounts ?? {}).find(([prefix]) => clean.startsWith(prefix));
  if (checkpoint) file = join(checkpoint, hub?.[2] ?? "");
  else if (mount) file = join(mount[1], clean.slice(mount[0].length));
  const info = await stat(file).catch(() => null);
  if (!info?.isFile()) return null;
  return { name: file, file, size: info.size, etag: `"${info.size.toString(16)}-${info.mtimeMs}"`, hub: checkpoint !== undefined };
}

/**
 * What the hub's API says of a revision of a model.
 * @param {ServerOptions} options
 * @param {string} path
 */
async function describeModel(options, path) {
  const [, name = "", revision] = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/([^/]+)$/.exec(path) ?? [];
  const checkpoint = options.hub?.[name];
  if (checkpoint === undefined || revision === undefined) return null;
  const siblings = await Promise.all((await readdir(checkpoint)).map(async (rfilename) => {
    const file = join(checkpoint, rfilename);
    const { size } = await stat(file);
    return rfilename.endsWith(".safetensors") ? { rfilename, size, lfs: { sha256: await sha256(file), size } } : { rfilename, size };
  }));
  return { id: name, sha: options.commit ?? "0".repeat(40), siblings };
}

/**
 * @param {Found} found
 * @param {number} size
 * @param {boolean} sound whether the path names no fault: caches may keep its weights, as with `bise serve`
 */
async function headersOf(found, size, sound) {
  /** @type {Record<string, string>} */
  const headers = {
    "Content-Type": TYPES[extname(found.name)] ?? "application/octet-stream",
    "Cache-Control": sound && found.name.endsWith(".safetensors") ? "max-age=3600" : "no-cache",
    ETag: found.etag,
  };
  // A browser would write gigabytes to its cache.
  if (typeof found.file !== "string") headers["Cache-Control"] = "no-store";
  else if (found.hub && found.name.endsWith(".safetensors")) {
    headers["x-linked-etag"] = `"${await sha256(found.file)}"`;
    headers["x-linked-size"] = String(size);
  }
  return headers;
}

/** @type {Map<string, Promise<string>>} */
const hashes = new Map();

/**
 * The file's sha256 in hexadecimal, computed once.
 * @param {string} file
 */
function sha256(file) {
  const known = hashes.get(file);
  if (known) return known;
  const hash = (async () => {
    const digest = createHash("sha256");
    for await (const chunk of createReadStream(file)) digest.update(chunk);
    return digest.digest("hex");
  })();
  hashes.set(file, hash);
  return hash;
}

/**
 * The single byte range of a Range header, end exclusive; null without one.
 * @param {string | null} header
 * @param {number} size
 * @returns {[number, number] | "unsatisfiable" | null}
 */
export function parseRange(header, size) {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? "");
  if (!match || (match[1] === "" && match[2] === "")) return null;
  const begin = match[1] === "" ? Math.max(0, size - Number(match[2])) : Number(match[1]);
  const end = match[1] === "" || match[2] === "" ? size : Math.min(size, Number(match[2]) + 1);
  return begin < end ? [begin, end] : "unsatisfiable";
}
