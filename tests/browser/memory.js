// What the processes and heaps of Chromium take, of memory and of the processor.

import { readFileSync, writeFileSync } from "node:fs";

/**
 * Memory of the browser's processes by their type, in bytes: what is resident in all of them, and the most that
 * ever was in one.
 * @param {import("puppeteer-core").Page} page
 */
export async function processMemory(page) {
  const session = await page.browser().target().createCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  /** @type {Record<string, { resident: number, peak: number }>} */
  const memory = {};
  for (const { id, type } of processInfo) {
    const status = readFileSync(`/proc/${id}/status`, "utf8");
    const bytes = (/** @type {string} */ field) => Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)?.[1] ?? 0) * 1024;
    const before = memory[type] ?? { resident: 0, peak: 0 };
    memory[type] = { resident: before.resident + bytes("VmRSS"), peak: Math.max(before.peak, bytes("VmHWM")) };
  }
  return memory;
}

/**
 * Peaks count from here on.
 * @param {import("puppeteer-core").Page} page
 */
export async function forgetPeaks(page) {
  const session = await page.browser().target().createCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  for (const { id } of processInfo) writeFileSync(`/proc/${id}/clear_refs`, "5");
}

/**
 * Processor time that Chromium's pages have taken so far, all threads together.
 * @param {import("puppeteer-core").Page} page
 */
export async function processorSeconds(page) {
  const session = await page.browser().target().createCDPSession();
  const { processInfo } = await session.send("SystemInfo.getProcessInfo");
  await session.detach();
  return processInfo.reduce((sum, { type, cpuTime }) => (type === "renderer" ? sum + cpuTime : sum), 0);
}

/**
 * Watches the JavaScript heaps of a page and its workers, with what array buffers hold outside of them.
 * @param {import("puppeteer-core").Page} page
 */
export async function watchHeaps(page) {
  const own = await page.createCDPSession();
  const usage = async (/** @type {import("puppeteer-core").CDPSession} */ session) => {
    const { usedSize, backingStorageSize = 0 } = /** @type {any} */ (await session.send("Runtime.getHeapUsage"));
    return { heap: usedSize, buffers: backingStorageSize };
  };
  const idle = await usage(own);
  const peak = { heap: 0, buffers: 0, samples: 0 };
  /** Sessions that have not answered yet: those of workers at work. @type {Set<import("puppeteer-core").CDPSession>} */
  const waiting = new Set();
  /** @type {Map<import("puppeteer-core").CDPSession, { heap: number, buffers: number }>} */
  const last = new Map();
  const sample = () => {
    const sessions = [own, ...page.workers().map(({ client }) => client)];
    for (const session of last.keys()) if (!sessions.includes(session)) last.delete(session);
    for (const session of sessions) {
      if (waiting.has(session)) continue;
      waiting.add(session);
      usage(session).then((now) => {
        last.set(session, now);
        const sum = (/** @type {"heap" | "buffers"} */ what) => [...last.values()].reduce((all, each) => all + each[what], 0);
        peak.heap = Math.max(peak.heap, sum("heap"));
        peak.buffers = Math.max(peak.buffers, sum("buffers"));
        peak.samples += 1;
      }, () => {}).finally(() => waiting.delete(session));
    }
  };
  return { idle, peak, sample };
}
