/** Which revision of a model a server has, asked of servers that answer in every way. */

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { hubRevision, isUnchanged, withVersions } from "../../www/bise/revision.js";
import { startServer } from "../browser/server.js";

const { signal } = new AbortController();

/** @param {import("node:test").TestContext} t */
async function start(t) {
  const root = mkdtempSync(join(tmpdir(), "bise-revision-"));
  writeFileSync(join(root, "config.json"), "{}");
  writeFileSync(join(root, "x.safetensors"), "weights");
  const server = await startServer({ root, hub: { "o/n": root } });
  t.after(async () => {
    await server.close();
    rmSync(root, { recursive: true });
  });
  return { ...server, root };
}

test("the hub tells its commit and the hashes of weights", async (t) => {
  const server = await start(t);
  const told = await hubRevision({ base: `${server.url}/o/n/resolve/main/?sig=1` }, signal);
  assert.ok(told !== null && told !== "unreachable");
  assert.equal(told.sha, "0".repeat(40));
  assert.deepEqual(Object.keys(told.hashes), ["x.safetensors"]);
  assert.match(told.hashes["x.safetensors"] ?? "", /^[0-9a-f]{64}$/);
  assert.deepEqual(server.log.map(({ path }) => path), ["/api/models/o/n/revision/main?blobs=true"]);
});

test("what is no hub, or cannot be reached, is told apart", async (t) => {
  const server = await start(t);
  assert.equal(await hubRevision({ base: `${server.url}/models/` }, signal), null);
  assert.equal(await hubRevision({ base: `${server.url}/o/other/resolve/main/` }, signal), null);
  assert.equal(await hubRevision({ base: "http://localhost:9/o/n/resolve/main/" }, signal), "unreachable");
  assert.equal(await isUnchanged({ a: { bytes: 1, validator: "x" } }, { base: "http://localhost:9/" }, signal), "unreachable");
  await assert.rejects(hubRevision({ base: `${server.url}/o/n/resolve/main/` }, AbortSignal.abort()));
});

test("the pause before the hub is asked again ends at an abort", { timeout: 60_000 }, async (t) => {
  const server = await start(t);
  server.options.refuse = () => 503;
  const controller = new AbortController();
  const asking = hubRevision({ base: `${server.url}/o/n/resolve/main/`, network: { attempts: 3, backoffMs: 600_000 } }, controller.signal);
  while (server.log.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  setTimeout(() => controller.abort(), 50);
  await assert.rejects(asking, { name: "AbortError" });
  assert.equal(server.log.length, 1);
  // One that came before the pause, too.
  await assert.rejects(hubRevision({ base: `${server.url}/o/n/resolve/main/`, network: { attempts: 3, backoffMs: 600_000 } }, AbortSignal.timeout(200)));
});

test("files are unchanged while their validator and length are", async (t) => {
  const server = await start(t);
  const head = await fetch(`${server.url}/config.json`, { method: "HEAD" });
  const validator = head.headers.get("etag");
  const ask = (/** @type {Record<string, import("../../www/bise/store.js").KnownFile>} */ files, base = `${server.url}/`) => isUnchanged(files, { base }, signal);
  assert.equal(await ask({ "config.json": { bytes: 2, validator } }), true);
  assert.equal(await ask({ "config.json": { bytes: null, validator } }), true);
  assert.equal(await ask({ "config.json": { bytes: 3, validator } }), false);
  assert.equal(await ask({ "config.json": { bytes: 2, validator: "\"other\"" } }), false);
  assert.equal(await ask({ "config.json": { bytes: 2, validator: null } }), false, "nothing to compare");
  const weights = (await fetch(`${server.url}/x.safetensors`, { method: "HEAD" })).headers.get("etag");
  const small = { "config.json": { bytes: 2, validator: null } };
  assert.equal(await ask({ ...small, "x.safetensors": { bytes: 7, validator: weights } }), true, "it goes with the weights");
  assert.equal(await ask({ "config.json": { bytes: 2, validator }, "x.safetensors": { bytes: 7, validator: null } }), false, "weights that nothing tells of");
  // HEAD may tell what an answer that was compressed did not.
  const files = { ...small, "x.safetensors": { bytes: 7, validator: null }, "gone.json": { bytes: 1, validator: null } };
  assert.deepEqual(await withVersions(files, { base: `${server.url}/` }, signal), {
    ...files, "config.json": { bytes: null, validator }, "gone.json": { bytes: null, validator: null },
  });
  assert.equal(await ask({ "missing.json": { bytes: 2, validator } }), "unreachable", "not told");
  for (const status of [401, 403, 405]) {
    assert.equal(await ask({ "config.json": { bytes: 2, validator } }, `${server.url}/fault/${status}/config.json/`), "unreachable", `${status}`);
  }
  assert.equal(await ask({}), false, "nothing known");
  assert.equal(await ask({ "config.json": { bytes: 2, validator } }, `${server.url}/fault/503/config.json/`), "unreachable");
  assert.ok(server.log.filter(({ path }) => !path.includes("fault")).every(({ method }) => method === "HEAD"));
});
