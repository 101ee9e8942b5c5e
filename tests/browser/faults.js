// What a server, a proxy or a network may do to a download.

import { open } from "node:fs/promises";

/**
 * A fault: `/fault/KIND/FILE/PATH...` serves PATH as usual, but for files named FILE. `KIND~2`
 * strikes the first two requests for that file only, `KIND~2-` all but those, `KIND~2-5` the three
 * that follow them. FILE may be `*`. `KIND.5` is the kind with a number; a status has the seconds of
 * its Retry-After there, and `429.d5` gives them as a date.
 * @typedef {object} Fault
 * @property {string} kind a key of {@link KINDS}, or an HTTP status
 * @property {string | null} detail
 * @property {number} from the first request that it strikes, from 0
 * @property {number} until the first that it spares again
 * @property {string} file
 */

/**
 * What is sent instead. An empty plan serves the file as it is.
 * @typedef {object} Plan
 * @property {number} [status] answer with this status and no file
 * @property {string | null} [retryAfter] beside the status
 * @property {number} [waitMs] before the answer
 * @property {string} [etag] instead of the file's own
 * @property {boolean} [idle] close the connection once it was silent for a while
 * @property {boolean} [page] answer with an HTML page and status 200
 * @property {boolean} [ignoreRange] send the whole file
 * @property {boolean} [noHead] refuse HEAD
 * @property {boolean} [noLength] leave the length out
 * @property {boolean} [wrongRange] send bytes other than those asked for, and say so
 * @property {boolean} [stall] never finish the body
 * @property {number} [size] pretend that the file ends here
 * @property {number} [damageAt] flip a bit of the byte at this offset
 * @property {number} [nanAt] set the two bytes at this even offset: NaN as BF16
 * @property {(length: number) => number} [cutAfter] how much of a body this long is sent
 */

/**
 * Where a body ends that should have been longer: at a number of bytes, or in the middle.
 * @param {number | null} bytes
 * @returns {(length: number) => number}
 */
const early = (bytes) => (length) => Math.min(length, bytes ?? Math.floor(length / 2));

/** @type {Record<string, (size: number, detail: number | null) => Plan>} */
export const KINDS = {
  /** The connection breaks in the body. */
  cut: (_, detail) => ({ cutAfter: early(detail) }),
  /** The body stops, and the connection stays open. */
  stall: (_, detail) => ({ cutAfter: early(detail), stall: true }),
  /** The body stops, and a little later the server closes the connection. */
  idle: (_, detail) => ({ cutAfter: early(detail), idle: true }),
  /** The answer takes its time, in milliseconds. */
  slow: (_, detail) => ({ waitMs: detail ?? 1000 }),
  /** Another version of the file, says its ETag. */
  etag: () => ({ etag: '"another"' }),
  /** A static host without ranges whose connection breaks. */
  norangecut: (_, detail) => ({ ignoreRange: true, cutAfter: early(detail) }),
  /** A static host without ranges: 200 and the whole file. */
  norange: () => ({ ignoreRange: true }),
  /** The file on the server is only half there. */
  truncate: (size) => ({ size: Math.floor(size / 2) }),
  /** One bit is flipped, late in the file. */
  damage: (size) => ({ damageAt: Math.floor(size * 0.9) }),
  /** One bit of the header's text is flipped. */
  header: () => ({ damageAt: 8 }),
  /** One bit of the header's length is flipped: it seems to be far longer than the file. */
  headlength: () => ({ damageAt: 6 }),
  /** A weight is NaN, late in the file. */
  nan: (size) => ({ nanAt: 2 * Math.floor(size * 0.45) }),
  /** A host that answers a missing file with its start page. */
  page: () => ({ page: true }),
  /** HEAD is not allowed. */
  nohead: () => ({ noHead: true }),
  /** No Content-Length. */
  nolength: () => ({ noLength: true }),
  /** 206 with other bytes than asked for. */
  wrongrange: () => ({ wrongRange: true }),
};

/**
 * Splits `/fault/KIND.DETAIL~FROM-UNTIL/FILE/PATH` from the path.
 * @param {string} path
 * @returns {{ path: string, fault: Fault | null }}
 */
export function parseFault(path) {
  const match = /^\/fault\/([a-z0-9]+)(?:\.(d?\d+))?(?:~(\d+)(?:(-)(\d*))?)?\/([^/]+)(\/.*)$/.exec(path);
  if (!match) return { path, fault: null };
  const [, kind = "", detail = null, first = "", open, last = "", file = "", rest = "/"] = match;
  if (!(kind in KINDS) && !/^[45]\d\d$/.test(kind)) throw new Error(`unknown fault ${kind}`);
  const [from, until] = open ? [first, last] : ["", first];
  return { path: rest, fault: { kind, detail, from: Number(from), until: until === "" ? Infinity : Number(until), file } };
}

/**
 * How a fault changes the answer for a file of this size.
 * @param {Fault | null} fault
 * @param {number} size
 * @returns {Plan}
 */
export function planOf(fault, size) {
  if (!fault) return {};
  const { kind, detail } = fault;
  const plan = KINDS[kind]?.(size, detail === null ? null : Number(detail));
  if (plan) return plan;
  const seconds = Number(detail?.replace("d", ""));
  const date = () => new Date(Date.now() + 1000 * seconds).toUTCString();
  return { status: Number(kind), retryAfter: detail?.startsWith("d") ? date() : detail };
}

/**
 * A part of a file, in small chunks, with the damage that the plan says.
 * @param {string | import("./synthetic.js").ComputedFile} file its path, or what computes it
 * @param {number} begin
 * @param {number} end exclusive
 * @param {Plan} [plan]
 */
export async function* readPart(file, begin, end, { damageAt = -1, nanAt = -2 } = {}) {
  let at = begin;
  for await (const part of typeof file === "string" ? readFile(file, begin, end) : file.read(begin, end)) {
    damage(part, damageAt - at, (byte) => byte ^ 0x10);
    damage(part, nanAt - at, () => 0xff);
    damage(part, nanAt + 1 - at, () => 0xff);
    yield part;
    at += part.length;
  }
}

/**
 * @param {string} file
 * @param {number} begin
 * @param {number} end exclusive
 */
async function* readFile(file, begin, end) {
  const handle = await open(file);
  try {
    for (let at = begin; at < end; ) {
      const chunk = Buffer.alloc(Math.min(65_536, end - at));
      const { bytesRead } = await handle.read(chunk, 0, chunk.length, at);
      if (bytesRead === 0) return;
      yield chunk.subarray(0, bytesRead);
      at += bytesRead;
    }
  } finally {
    await handle.close();
  }
}

/**
 * Changes the byte at `index`, if it is in this part.
 * @param {Buffer} part
 * @param {number} index
 * @param {(byte: number) => number} change
 */
function damage(part, index, change) {
  if (index >= 0 && index < part.length) part.writeUInt8(change(part.readUInt8(index)), index);
}
