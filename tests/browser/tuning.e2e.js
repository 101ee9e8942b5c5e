// What a load has timed is remembered by the browser, and what is damaged is timed again.

import assert from "node:assert/strict";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";
import { browserName } from "./launch.js";

test("the kernels that were timed are remembered for the next load", async (t) => {
  const { page } = await openClient(t);
  const loads = await page.evaluate(async () => {
    const { Engine, proof } = /** @type {any} */ (globalThis).bise;
    /** @type {any} */ (globalThis).useWorker("/pages/tuning-worker.js");
    const load = async (/** @type {object} */ options) => {
      const engine = await Engine.load("/models/tale/", options);
      const { tuning, adapter } = engine.info;
      const text = await proof(engine);
      await engine.dispose();
      return { tuning, threads: adapter.threads, subgroup: adapter.subgroup, name: adapter.name, text };
    };
    const root = await navigator.storage.getDirectory();
    const file = async () => (await root.getDirectoryHandle("bise-cache")).getFileHandle("tuning.json");
    const read = async () => JSON.parse(await (await (await file()).getFile()).text());
    const write = async (/** @type {string} */ text) => {
      const stream = await (await file()).createWritable();
      await stream.write(text);
      await stream.close();
    };

    const timed = await load({ autotune: true });
    const held = await read();
    const off = await load({ autotune: false });
    // What no measurement comes to, so that it can only have been taken up.
    const [key] = Object.keys(held);
    await write(JSON.stringify({ [key ?? ""]: held[key ?? ""].with(-1, 7) }));
    const other = await load({ autotune: true });
    await write('{"torn');
    const again = await load({ autotune: true });
    // What the browser offers, asked for without the engine.
    const offered = await /** @type {any} */ (navigator).gpu.requestAdapter();
    const subgroups = offered.features.has("subgroups") ? offered.info.subgroupMinSize : 0;
    return { timed, held, off, other, again, heldAgain: await read(), subgroups };
  });
  const { timed, held, off, other, again } = loads;
  const about = JSON.stringify(loads);
  for (const each of [timed, off, other, again]) assert.equal(each.text, TALE_PROOF, about);
  const { state, note, key, choice } = timed.tuning;
  assert.equal(state, "timed", about);
  assert.match(note, /^\d+ measured$/);
  assert.match(key, /^bise \d/);
  // Firefox does not tell which adapter it is: its limits alone tell it from others there.
  if (browserName() === "chromium") assert.ok(timed.name.split(" ").every((/** @type {string} */ word) => key.includes(word)), about);
  assert.deepEqual(held, { [key]: choice });
  assert.deepEqual([off.tuning.state, off.tuning.note], ["usual", "it is switched off"]);
  // Sums meet within subgroups where there are any: in Chromium, also on its software adapter.
  assert.equal(off.subgroup, loads.subgroups, about);
  if (browserName() === "chromium") assert.ok(off.subgroup >= 4, about);
  assert.deepEqual(other.tuning, { state: "remembered", note: null, key, choice: choice.with(-1, 7) });
  assert.deepEqual(other.threads, choice.slice(0, 2));
  assert.equal(again.tuning.state, "timed", about);
  assert.deepEqual(loads.heldAgain, { [key]: again.tuning.choice });
});

test("an adapter that promises subgroups and gives none computes without them", async (t) => {
  // Firefox says on its console what it was asked to compile and could not.
  const { page } = await openClient(t, { expectErrors: browserName() === "firefox" ? [/^(?!nobody's)[^]*(subgroups|shader)/i] : [] });
  const { subgroup, backend, text } = await page.evaluate(async () => {
    const { Engine, proof } = /** @type {any} */ (globalThis).bise;
    /** @type {any} */ (globalThis).useWorker("/pages/promising-worker.js");
    const engine = await Engine.load("/models/tale/", { backend: "webgpu" });
    const { adapter, backend } = engine.info;
    const text = await proof(engine);
    await engine.dispose();
    return { subgroup: adapter.subgroup, backend, text };
  });
  assert.deepEqual({ subgroup, backend, text }, { subgroup: 0, backend: "webgpu", text: TALE_PROOF });
});

test("a kernel that a compiler refuses is named, with the compiler's words", async (t) => {
  const { page } = await openClient(t, { expectErrors: browserName() === "firefox" ? [/^(?!nobody's)[^]*(no_such_thing|shader)/i] : [] });
  const ends = await page.evaluate(async () => {
    const { Engine, outcome, proof } = /** @type {any} */ (globalThis).bise;
    const { useWorker } = /** @type {any} */ (globalThis);
    const ends = [];
    for (const kernel of ["matmul", "attend_one"]) {
      useWorker(`/pages/refusing-worker.js?kernel=${kernel}`);
      // Kernels compile beside the load, and a load need not wait for those of decoding.
      const { code, message } = await outcome(Engine.load("/models/tale/", { backend: "webgpu" }).then(proof));
      ends.push([kernel, code, message]);
    }
    useWorker(null);
    const engine = await Engine.load("/models/tale/", { backend: "webgpu" });
    const text = await proof(engine);
    await engine.dispose();
    return { ends, text };
  });
  for (const [kernel, code, message] of ends.ends) {
    console.log(`    ${kernel}: ${code}: ${message.split("\n")[0]}`);
    assert.equal(code, "device-lost", message);
    assert.ok(message.includes(kernel), message);
    // Firefox says no more than that parsing failed.
    assert.match(message, browserName() === "firefox" ? /no_such_thing|pars/i : /no_such_thing/);
  }
  assert.equal(ends.text, TALE_PROOF);
});
