// A model beside its adapter's limits, in a browser: what `bise bench` does natively.
//
//   node tests/browser/bench_adapter.js chromium|firefox [MODEL] [--quick] [--rounds N] [--longest TOKENS] [--kv-cache f16|f8] [--json]
//   node tests/browser/bench_adapter.js --write DIR      # mistral-7b as a checkpoint, for the native bench
//
// MODEL is a checkpoint's directory, by default that of tale, or mistral-7b: two layers of its shape, FP8, computed.

import { createWriteStream, existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { finished } from "node:stream/promises";
import { parseArgs } from "node:util";
import { launch } from "./launch.js";
import { fromTop, MODELS } from "./paths.js";
import { startServer } from "./server.js";
import { configOf } from "./seven.js";
import { computeCheckpoint } from "./synthetic.js";

/** @typedef {import("../../www/bise/index.js").BenchReport} BenchReport */
/** @typedef {import("../../www/bise/index.js").Figure} Figure */

/** Layers of Mistral 7B's shape; a smaller vocabulary, so that the layers are what counts. */
const layers = () => computeCheckpoint({ config: { ...configOf("seven"), num_hidden_layers: 2, vocab_size: 8192 }, layout: "fp8" });

/** @param {string} directory */
async function write(directory) {
  if (existsSync(directory)) return;
  const partial = `${directory}.partial`;
  rmSync(partial, { recursive: true, force: true });
  mkdirSync(partial, { recursive: true });
  for (const [name, file] of layers()) {
    await finished(Readable.from(file.read(0, file.size)).pipe(createWriteStream(join(partial, name))));
  }
  renameSync(partial, directory);
}

/** @param {Figure} figure */
function row({ kind, name, at, value, unit, spread: [least, most], samples, limit, ratio }) {
  const label = `${kind.padEnd(11)} ${name}${at > 0 ? ` at ${at}` : ""}`;
  const spread = samples > 1 ? `(${least.toFixed(2)} to ${most.toFixed(2)})` : "";
  const share = limit === null || ratio === null ? "" : `${ratio.toFixed(2)} of ${limit.toFixed(2)}`;
  return `${label.padEnd(72)} ${value.toFixed(2).padStart(10)} ${unit.padEnd(10)} ${spread.padEnd(22)} ${share}`.trimEnd();
}

/** @param {BenchReport} report */
function print({ info, deviation, figures, walkBytes, notes, hostBytes }) {
  const mib = (/** @type {number} */ bytes) => (bytes / 2 ** 20).toFixed(1);
  console.log(`adapter    ${info.adapter.name}, ${info.adapter.driver}`);
  console.log(`model      ${info.parameters} weights in ${info.layers} layers`);
  console.log(`deviation  ${deviation.toExponential(1)} of the largest logit, beside the CPU's`);
  const { weights, kvCache, activations } = info.memory;
  console.log(`memory     weights ${mib(weights)} MiB, key/value cache ${mib(kvCache)} in ${info.kvCache}, activations ${mib(activations)}; wasm ${mib(hostBytes)}`);
  console.log(`walk       ${(walkBytes / 2 ** 20).toFixed(0)} MiB, before a limit's reads come to the same bytes again`);
  const kernels = figures.filter(({ kind }) => kind === "kernel");
  for (const figure of [...kernels, ...figures.filter(({ kind }) => kind !== "kernel")]) console.log(row(figure));
  for (const note of notes) console.log(`note: ${note}`);
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { write: { type: "string" }, quick: { type: "boolean" }, rounds: { type: "string" }, longest: { type: "string" }, json: { type: "boolean" }, "kv-cache": { type: "string" } },
});
const [name = "chromium", model = MODELS.tale] = positionals;
if (values.write !== undefined) {
  await write(values.write);
} else if (name !== "chromium" && name !== "firefox") {
  throw new Error(`the browser is chromium or firefox, not ${name}`);
} else if (model !== "mistral-7b" && !existsSync(join(model, "config.json"))) {
  throw new Error(`${model} is no directory with a checkpoint`);
} else {
  const server = await startServer({
    root: fromTop("target/site"),
    mounts: { "/pages/": fromTop("tests/browser/pages"), ...(model === "mistral-7b" ? {} : { "/model/": model }) },
    ...(model === "mistral-7b" ? { computed: { "/model/": layers() } } : {}),
  });
  const { browser, close } = await launch(name, undefined, { networkEnabled: false });
  try {
    const page = await browser.newPage();
    page.on("console", (message) => process.stderr.write(`[${message.text()}]\n`));
    await page.goto(`${server.url}/pages/client.html`, { waitUntil: "load" });
    await page.waitForFunction("globalThis.bise !== undefined");
    /** @type {import("../../www/bise/index.js").BenchOptions} */
    const options = {
      ...(values.quick === undefined ? {} : { quick: values.quick }),
      ...(values.rounds === undefined ? {} : { rounds: Number(values.rounds) }),
      ...(values.longest === undefined ? {} : { longest: Number(values.longest) }),
      // What is none is refused by name.
      ...(values["kv-cache"] === undefined ? {} : { kvCache: /** @type {"f8"} */ (values["kv-cache"]) }),
    };
    // Asked for again and again: a call into the page must not take as long as a bench.
    await page.evaluate((options) => {
      const state = /** @type {any} */ (globalThis);
      state.benched = state.bise.outcome(state.bise.bench("/model/", { ...options, onProgress: console.log })).then((/** @type {any} */ end) => { state.ended = end; });
    }, options);
    await page.waitForFunction("globalThis.ended !== undefined", { timeout: 0, polling: 500 });
    const { value, message } = await page.evaluate(() => /** @type {any} */ (globalThis).ended);
    if (value === undefined) throw new Error(message);
    if (values.json) console.log(JSON.stringify(value));
    else print(value);
  } finally {
    await close();
    await server.close();
  }
}
