// Merges in Chromium, for tests/merge_bench.py: `node tests/browser/merge_bench.js BISE RECIPE MODEL_A MODEL_B`.
// BISE serves the models. The recipe's models are `a` and `b`. Every line of standard input says where to: `opfs`, `discard`,
// or `hashes`, which merges to memory and hashes every tensor; `opfs watched` and `discard watched` tell
// the peak of memory, too, and take longer for it. Every answer is a line of JSON.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { launch } from "./launch.js";
import { fromTop } from "./paths.js";
import { startServe } from "./serve.js";

/** @typedef {import("puppeteer-core").Page} Page */
/** @typedef {{ wasm: number, heap: number, buffers: number, processes: number }} Memory all in bytes */

const SAMPLE_MS = 50;

const [program = "", recipeFile = "", a = "", b = ""] = process.argv.slice(2);
const recipe = readFileSync(recipeFile, "utf8");
const server = await startServe(program, fromTop("target/bench-merge/site"));
const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
const control = await browser.target().createCDPSession();

/** Resident memory of all of the browser's processes. */
async function processes() {
  const { processInfo } = await control.send("SystemInfo.getProcessInfo");
  const resident = processInfo.map(({ id }) => {
    try {
      return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${id}/status`, "utf8"))?.[1] ?? 0) * 1024;
    } catch {
      return 0; // It has ended since.
    }
  });
  return resident.reduce((sum, bytes) => sum + bytes, 0);
}

/**
 * The largest of each kind, until `signal` says stop.
 * @param {Page} page
 * @param {AbortSignal} signal
 */
async function watch(page, signal) {
  /** @type {Memory} */
  const peak = { wasm: 0, heap: 0, buffers: 0, processes: 0 };
  const note = (/** @type {Partial<Memory>} */ sample) => {
    for (const [kind, bytes] of Object.entries(sample)) peak[/** @type {keyof Memory} */ (kind)] = Math.max(peak[/** @type {keyof Memory} */ (kind)], bytes);
  };
  while (!signal.aborted) {
    note({ processes: await processes() });
    try {
      for (const worker of page.workers()) {
        const heap = /** @type {{ usedSize: number, backingStorageSize?: number }} */ (await worker.client.send("Runtime.getHeapUsage"));
        // The module that the worker runs, not another: its memory never shrinks.
        const wasm = await worker.evaluate(async (glue) => (await import(glue)).wasm_memory(), "/pkg/wasm/bise.js");
        note({ heap: heap.usedSize, buffers: heap.backingStorageSize ?? 0, wasm });
      }
    } catch {
      // The worker has ended since.
    }
    await sleep(SAMPLE_MS);
  }
  return peak;
}

/**
 * @param {Page} page
 * @param {string} where
 * @param {boolean} watched
 * @param {number} number
 */
async function merge(page, where, watched, number) {
  // Addresses of its own: no merge gets what the HTTP cache kept of the one before.
  server.mount(`${number}/a`, a);
  server.mount(`${number}/b`, b);
  const idle = await processes();
  const before = server.bytesRead();
  const ended = new AbortController();
  const watching = watched ? watch(page, ended.signal) : null;
  const measured = await page.evaluate(async (recipe, number, where) => {
    const { bise, merges } = /** @type {any} */ (globalThis);
    const models = { a: `/${number}/a/`, b: `/${number}/b/` };
    const { files, open } = merges.memory();
    const discard = () => new WritableStream();
    const output = where === "opfs" ? await merges.folder("bench") : where === "hashes" ? open : discard;
    const began = performance.now();
    const report = await bise.merge(recipe, { models, output });
    const seconds = (performance.now() - began) / 1000;
    const hashes = where === "hashes" ? await merges.hashes(files) : null;
    if (where === "opfs") await merges.folder("bench"); // empty again
    return { seconds, hashes, paths: [...new Set(report.tensors.map((/** @type {any} */ { path }) => path))], tensors: report.totals.tensors };
  }, recipe, number, where);
  ended.abort();
  return { ...measured, memory: await watching, idle, bytes: server.bytesRead() - before };
}

let number = 0;
try {
  const page = await browser.newPage();
  await page.goto(`${server.url}/pages/client.html`, { waitUntil: "load" });
  await page.addScriptTag({ url: "/pages/merges.js", type: "module" });
  await page.waitForFunction("globalThis.bise !== undefined && globalThis.merges !== undefined");
  console.log(JSON.stringify({ browser: await browser.version() }));
  for await (const line of createInterface({ input: process.stdin })) {
    const [where = "", watched] = line.split(" ");
    number += 1;
    console.log(JSON.stringify(await merge(page, where, watched !== undefined, number)));
  }
} finally {
  await close();
  server.close();
}
