// What a browser has saved among its downloads.

import { createHash } from "node:crypto";
import { readFileSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * A finished download, once the browser has given it its name.
 * @param {string} downloads the folder, which holds nothing else
 * @param {string} name
 */
export async function savedDownload(downloads, name) {
  const file = join(downloads, name);
  for (let size = -1; ; ) {
    const there = readdirSync(downloads);
    // While it is being saved there is a file with another ending beside it, in Firefox an empty one of the name, too.
    if (there.join() === name && statSync(file).size > 0 && statSync(file).size === size) return readFileSync(file);
    size = there.join() === name ? statSync(file).size : -1;
    await sleep(200);
  }
}

/**
 * SHA-256 of every tensor in a safetensors file.
 * @param {Uint8Array} file
 * @returns {Record<string, string>}
 */
export function tensorHashes(file) {
  const bytes = Buffer.from(file);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, start));
  delete header.__metadata__;
  return Object.fromEntries(Object.entries(header).map(([name, { data_offsets: [begin, end] }]) => [name, createHash("sha256").update(bytes.subarray(start + begin, start + end)).digest("hex")]));
}
