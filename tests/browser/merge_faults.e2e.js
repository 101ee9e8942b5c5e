// A GPU that fails while it merges: the CPU goes on, and the report says so.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { openClient } from "./client.js";
import { browserName } from "./launch.js";
import { fromTop } from "./paths.js";

const RECIPE = readFileSync(fromTop("tests/fixtures/recipes/tale-x-case.yml"), "utf8");

/**
 * Merges on the CPU, and on a GPU with each of these faults.
 * @param {import("node:test").TestContext} t
 * @param {string[]} faults
 */
async function mergeWith(t, faults) {
  const { page } = await openClient(t);
  await page.addScriptTag({ url: "/pages/merges.js", type: "module" });
  await page.waitForFunction("globalThis.merges !== undefined");
  return page.evaluate(async (recipe, faults) => {
    const { bise: { merge }, merges } = /** @type {any} */ (globalThis);
    const run = async (/** @type {string} */ backend) => {
      const { files, open } = merges.memory();
      const { warnings, tensors } = await merge(recipe, { models: merges.models, output: open, backend });
      const paths = tensors.map((/** @type {any} */ { tensor, path }) => [tensor, path]);
      return { files, warnings: /** @type {string[]} */ (warnings), paths: /** @type {[string, string][]} */ (paths) };
    };
    const cpu = await run("cpu");
    const ends = [];
    for (const fault of faults) {
      const restore = merges.withWorker(`/pages/gpu-faults-worker.js?${fault}`);
      const { files, warnings, paths } = await run("webgpu");
      restore();
      ends.push({ fault, warnings, paths, names: [...files.keys()].sort(), apart: merges.compare(files, cpu.files) });
    }
    return { ends, names: [...cpu.files.keys()].sort() };
  }, RECIPE, faults);
}

/** @param {{ fault: string, apart: { elements: number, different: number, ulps: number } }} end */
function isTheSameMerge({ fault, apart: { elements, different, ulps } }) {
  assert.ok(elements === 3_148_224 && different * 1000 <= elements && ulps <= 1, `${fault}: ${different} of ${elements}, ${ulps} ulps`);
}

test("a device that is lost during a merge leaves the rest to the CPU", async (t) => {
  // The start-up tests read back sums and, of a blend, a count and itself: of a second one, too, on Chromium's
  // SwiftShader, which flushes subnormals where Firefox's lavapipe keeps them. Every tensor its sums, a count, itself.
  const startUp = browserName() === "firefox" ? 3 : 5;
  const { ends, names } = await mergeWith(t, ["", ...[13, 14, 15, 18].map((n) => `lost=${n}`)]);
  for (const end of ends) {
    isTheSameMerge(end);
    assert.deepEqual(end.names, names, end.fault);
    assert.equal(end.paths.length, 57, end.fault);
    const onGpu = end.paths.filter(([, path]) => path === "gpu").length;
    if (end.fault === "") {
      assert.ok(onGpu >= 10, `${onGpu}`);
      assert.deepEqual(end.warnings, []);
      continue;
    }
    // Before it was lost, and no later tensor tried again.
    assert.equal(onGpu, Math.floor((Number(end.fault.slice(5)) - startUp - 1) / 3), end.fault);
    assert.equal(end.warnings.length, 1, end.warnings.join("\n"));
    assert.match(end.warnings[0] ?? "", /^model\..*: .*; it and all that follow were merged on the CPU$/);
    const named = (end.warnings[0] ?? "").split(":")[0];
    assert.equal(end.paths.find(([tensor]) => tensor === named)?.[1], "cpu", end.fault);
  }
});

test("a tensor for which the device has no room is merged on the CPU, and a warning says so", async (t) => {
  const { ends: [end], names } = await mergeWith(t, ["full=down_proj"]);
  assert.ok(end);
  isTheSameMerge(end);
  assert.deepEqual(end.names, names);
  // Once: what is no smaller is not tried, and so not read twice.
  assert.equal(end.warnings.length, 1, end.warnings.join("\n"));
  assert.match(end.warnings[0] ?? "", /^model\.layers\.0\.mlp\.down_proj\.weight: the GPU has no room for it \(\d+ bytes more\); it was merged on the CPU$/);
  assert.ok(end.paths.filter(([tensor]) => tensor.includes("down_proj")).every(([, path]) => path === "cpu"));
  assert.ok(end.paths.some(([, path]) => path === "gpu"), "those before it");
});
