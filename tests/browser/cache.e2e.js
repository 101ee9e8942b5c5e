// What a second visit costs, as README says: the browser's own cache, and nothing else.

import assert from "node:assert/strict";
import test from "node:test";
import { openClient } from "./client.js";
import { browserName } from "./launch.js";

/** Weights of the model tale in its files, in bytes. */
const WEIGHTS_AT_LEAST = 6_000_000;

test("Chromium keeps weights that the server lets it keep; Firefox asks for the ranges again", async (t) => {
  const { page, server } = await openClient(t);
  const load = async () => {
    server.log.length = 0;
    await page.evaluate(async () => (await /** @type {any} */ (globalThis).bise.Engine.load("/models/tale/")).dispose());
    return server.log.filter(({ path }) => path.endsWith(".safetensors")).reduce((sum, { bytes }) => sum + bytes, 0);
  };
  const [first, second] = [await load(), await load()];
  console.log(`    bytes of weights sent: ${first}, then ${second}`);
  assert.ok(first > WEIGHTS_AT_LEAST);
  if (browserName() === "chromium") assert.equal(second, 0);
  else assert.ok(second > WEIGHTS_AT_LEAST, "Firefox keeps ranges by now: README may say so");
});
