// The tests' own server: what its faults do must be known before a client is blamed for them.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { parseRange, startServer } from "../browser/server.js";

const BYTES = Buffer.from(Array.from({ length: 200_000 }, (_, i) => i % 251));

/**
 * A server over a folder with `m/x.safetensors` and `m/config.json`, also as `o/n` on the hub.
 * @param {import("node:test").TestContext} t
 * @param {Partial<import("../browser/server.js").ServerOptions>} [options]
 */
async function serve(t, options = {}) {
  const root = mkdtempSync(join(tmpdir(), "bise-server-"));
  mkdirSync(join(root, "m"));
  writeFileSync(join(root, "m/x.safetensors"), BYTES);
  writeFileSync(join(root, "m/config.json"), "{}");
  const server = await startServer({ root, hub: { "o/n": join(root, "m") }, ...options });
  t.after(async () => {
    await server.close();
    rmSync(root, { recursive: true });
  });
  /** @param {string} path @param {RequestInit} [init] */
  const get = (path, init) => fetch(server.url + path, init);
  return { server, get };
}

/** @param {Response} response */
const bytesOf = async (response) => Buffer.from(await response.arrayBuffer());

test("a range is parsed as RFC 9110 says", () => {
  assert.deepEqual(parseRange("bytes=2-5", 10), [2, 6]);
  assert.deepEqual(parseRange("bytes=2-", 10), [2, 10]);
  assert.deepEqual(parseRange("bytes=-3", 10), [7, 10]);
  assert.deepEqual(parseRange("bytes=8-99", 10), [8, 10]);
  assert.equal(parseRange("bytes=10-12", 10), "unsatisfiable");
  assert.equal(parseRange("lines=1-2", 10), null);
  assert.equal(parseRange(null, 10), null);
});

test("files and ranges are served and logged", async (t) => {
  const { server, get } = await serve(t);
  assert.deepEqual(await bytesOf(await get("/m/x.safetensors")), BYTES);
  const part = await get("/m/x.safetensors", { headers: { Range: "bytes=100-299" } });
  assert.deepEqual([part.status, part.headers.get("content-range")], [206, "bytes 100-299/200000"]);
  assert.deepEqual(await bytesOf(part), BYTES.subarray(100, 300));
  assert.equal((await get("/m/none")).status, 404);
  assert.equal((await get("/../../etc/passwd")).status, 404);
  assert.deepEqual(server.requestsFor("x.safetensors").map(({ range, status, bytes }) => [range, status, bytes]), [
    [null, 200, 200_000],
    ["bytes=100-299", 206, 200],
  ]);
});

test("an unchanged file is not sent again", async (t) => {
  const { get } = await serve(t);
  const etag = (await get("/m/config.json")).headers.get("etag") ?? "";
  assert.equal((await get("/m/config.json", { headers: { "If-None-Match": etag } })).status, 304);
});

test("caches may keep weights, but nothing damaged", async (t) => {
  const { get } = await serve(t);
  const kept = async (/** @type {string} */ path) => (await get(path)).headers.get("cache-control");
  assert.equal(await kept("/m/x.safetensors"), "max-age=3600");
  assert.equal(await kept("/m/config.json"), "no-cache");
  assert.equal(await kept("/fault/damage/x.safetensors/m/x.safetensors"), "no-cache");
});

test("the hub tells size and hash of weights", async (t) => {
  const { get } = await serve(t);
  const head = await get("/o/n/resolve/main/x.safetensors", { method: "HEAD" });
  assert.equal(head.headers.get("x-linked-size"), "200000");
  assert.equal(head.headers.get("x-linked-etag"), `"${createHash("sha256").update(BYTES).digest("hex")}"`);
  assert.equal((await get("/o/n/resolve/main/config.json")).headers.get("x-linked-etag"), null);
});

test("each fault does what its name says, to the file it names", async (t) => {
  const { get } = await serve(t);
  /** @param {string} fault @param {RequestInit} [init] */
  const faulty = (fault, init) => get(`/fault/${fault}/x.safetensors/m/x.safetensors`, init);
  const range = { headers: { Range: "bytes=100-299" } };

  assert.equal((await faulty("404")).status, 404);
  assert.equal((await faulty("503")).status, 503);
  assert.equal((await faulty("nohead", { method: "HEAD" })).status, 405);
  assert.equal((await faulty("norange", range)).status, 200);
  assert.equal((await faulty("wrongrange", range)).headers.get("content-range"), "bytes 99-298/200000");
  assert.equal((await faulty("nolength")).headers.get("content-length"), null);
  assert.match(await (await faulty("page")).text(), /<!doctype html>/);
  assert.equal((await bytesOf(await faulty("truncate"))).length, 100_000);
  await assert.rejects(async () => bytesOf(await faulty("cut")), /terminated|fetch failed/);
  await assert.rejects(async () => bytesOf(await faulty("stall", { signal: AbortSignal.timeout(300) })), /abort|timeout/i);
  assert.equal((await faulty("nonsense")).status, 500);

  const damaged = await bytesOf(await faulty("damage"));
  const wrong = [...damaged.keys()].filter((i) => damaged[i] !== BYTES[i]);
  assert.deepEqual(wrong, [180_000]);
  const part = await faulty("damage", { headers: { Range: "bytes=180000-180009" } });
  assert.notDeepEqual(await bytesOf(part), BYTES.subarray(180_000, 180_010));

  assert.equal((await get("/fault/404/x.safetensors/m/config.json")).status, 200);
  assert.equal((await get("/fault/404/*/m/config.json")).status, 404);
});

test("a fault with a number passes", async (t) => {
  const { get } = await serve(t);
  const path = "/fault/503~2/x.safetensors/m/x.safetensors";
  const statuses = [];
  for (let i = 0; i < 3; i++) statuses.push((await get(path)).status);
  assert.deepEqual(statuses, [503, 503, 200]);
});

test("a fault from a request on, and in between", async (t) => {
  const { get } = await serve(t);
  const ask = async (/** @type {string} */ fault) => {
    const statuses = [];
    for (let i = 0; i < 5; i++) statuses.push((await get(`/fault/${fault}/x.safetensors/m/x.safetensors`)).status);
    return statuses;
  };
  assert.deepEqual(await ask("503~2-"), [200, 200, 503, 503, 503]);
  assert.deepEqual(await ask("503~1-3"), [200, 503, 503, 200, 200]);
});

test("faults with a number of their own", async (t) => {
  const { get } = await serve(t);
  const faulty = (/** @type {string} */ fault) => get(`/fault/${fault}/x.safetensors/m/x.safetensors`);
  assert.equal((await faulty("429.7")).headers.get("retry-after"), "7");
  assert.equal((await faulty("429")).headers.get("retry-after"), null);
  const date = (await faulty("503.d60")).headers.get("retry-after") ?? "";
  assert.ok(Math.abs(Date.parse(date) - Date.now() - 60_000) < 5000, date);
  assert.equal((await faulty("etag")).headers.get("etag"), '"another"');
  const began = performance.now();
  assert.deepEqual(await bytesOf(await faulty("slow.200")), BYTES);
  assert.ok(performance.now() - began > 190);
  for (const fault of ["cut.1000", "idle.1000", "norangecut.1000"]) {
    const { body } = await faulty(fault);
    let got = 0;
    const read = async () => {
      for await (const piece of /** @type {any} */ (body)) got += piece.length;
    };
    await assert.rejects(read, /terminated|other side closed/, fault);
    assert.equal(got, 1000, fault);
  }
});

test("weights may lie elsewhere", async (t) => {
  const store = await serve(t);
  const { get, server } = await serve(t, { redirect: (path) => (path.endsWith(".safetensors") ? store.server.url + path : null) });
  assert.deepEqual(await bytesOf(await get("/m/x.safetensors")), BYTES);
  assert.deepEqual([server.log[0]?.status, store.server.log[0]?.status], [302, 200]);
  assert.equal((await get("/m/config.json")).redirected, false);
});

test("a throttled body takes its time", async (t) => {
  const { get } = await serve(t, { bytesPerSecond: 1_000_000 });
  const began = performance.now();
  await bytesOf(await get("/m/x.safetensors"));
  assert.ok(performance.now() - began > 150);
});

test("other origins are let in only on request", async (t) => {
  const closed = await serve(t);
  assert.equal((await closed.get("/m/config.json")).headers.get("access-control-allow-origin"), null);
  const open = await serve(t, { cors: true });
  assert.equal((await open.get("/m/config.json")).headers.get("access-control-allow-origin"), "*");
  assert.equal((await open.get("/m/config.json", { method: "OPTIONS" })).status, 204);
});
