// Merging in the page, and what it leaves where.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { TALE_PROOF, openClient } from "./client.js";
import { GOLDEN, vocabularyOf, wrongIds, wrongLogprobs } from "./golden.js";
import { browserName } from "./launch.js";
import { fromTop } from "./paths.js";

const RECIPE = readFileSync(fromTop("tests/fixtures/recipes/tale-x-case.yml"), "utf8");
/** Every tensor of that recipe as the CPU merges it, natively: `cargo test` holds the same hashes against its own. */
const HASHES = JSON.parse(readFileSync(fromTop("tests/fixtures/vectors/merged_cpu.json"), "utf8")).tensor_sha256;
const PARENTS_BYTES = 2 * 6_296_448; // of both weights, without headers

/** Everything of a checkpoint in one file. */
const FILES = ["README.md", "config.json", "generation_config.json", "mergekit_config.yml", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"];

/**
 * Opens the client's page with `globalThis.merges`.
 * @param {import("node:test").TestContext} t
 * @param {import("./harness.js").PageOptions} [options]
 */
async function openMerges(t, options) {
  const opened = await openClient(t, options);
  await opened.page.addScriptTag({ url: "/pages/merges.js", type: "module" });
  await opened.page.waitForFunction("globalThis.merges !== undefined");
  return opened;
}

test("a merge into the origin's storage has the native merge's bits, and runs", async (t) => {
  const { page, server } = await openMerges(t);
  const result = await page.evaluate(async (recipe) => {
    const { bise: { merge, Engine, proof }, merges } = /** @type {any} */ (globalThis);
    const output = await merges.folder("merged");
    /** @type {{ file: string, done: number, total: number }[]} */
    const progress = [];
    /** @type {{ tensor: string, path: string, sources: string[] }[]} */
    const tensors = [];
    const report = await merge(recipe, {
      models: merges.models, output, backend: "cpu", onProgress: (/** @type {any} */ event) => progress.push(event), onTensor: (/** @type {any} */ tensor) => tensors.push(tensor),
    });
    const files = await merges.readAll(output);
    const hashes = await merges.hashes(files);
    const config = JSON.parse(new TextDecoder().decode(files.get("config.json")));
    const kept = new TextDecoder().decode(files.get("mergekit_config.yml"));
    // What was written is a checkpoint like any other.
    const engine = await Engine.load(output);
    const text = await proof(engine);
    await engine.dispose();
    return { report, names: [...files.keys()].sort(), hashes, config, kept, text, progress, tensors };
  }, RECIPE);
  assert.deepEqual(result.names, FILES);
  assert.equal(Object.keys(HASHES).length, 57);
  assert.deepEqual(result.hashes, HASHES);
  assert.equal(result.kept, RECIPE);
  assert.deepEqual([result.config.dtype, result.config.num_hidden_layers], ["bfloat16", 6]);
  assert.match(result.text, /\w/);

  // Progress grows to the whole; the report has every tensor once, as onTensor told.
  const last = result.progress.at(-1);
  assert.deepEqual([last?.done, last?.file], [last?.total, "config.json"]);
  assert.ok(last && last.total > PARENTS_BYTES / 2, `${last?.total}`);
  assert.ok(result.progress.every(({ done }, i) => done >= (result.progress[i - 1]?.done ?? 0)));
  assert.deepEqual(result.report.tensors, result.tensors);
  assert.equal(result.report.totals.tensors, 57);
  assert.equal(new Set(result.tensors.map(({ tensor }) => tensor)).size, 57);
  assert.ok(result.tensors.every(({ path, sources }) => path === "cpu" && sources.length === 2));

  // Each byte came once. Beside the data there are headers, and what of a first request was not needed at once.
  const fetched = server.log.filter(({ path }) => path.endsWith(".safetensors")).reduce((sum, { bytes }) => sum + bytes, 0);
  console.log(`    ${fetched} bytes fetched of ${PARENTS_BYTES}, in ${server.log.length} requests`);
  assert.ok(fetched >= PARENTS_BYTES && fetched < 1.01 * PARENTS_BYTES, `${fetched} bytes of ${PARENTS_BYTES}`);
});

test("streams that the page opens get the same files, from the GPU within a rounding", async (t) => {
  const { page } = await openMerges(t);
  const result = await page.evaluate(async (recipe) => {
    const { bise: { merge, outcome }, merges } = /** @type {any} */ (globalThis);
    const options = { models: merges.models, shardBytes: 2e6 };
    const [cpu, gpu, slow] = [merges.memory(), merges.memory(), merges.memory()];
    await merge(recipe, { ...options, output: cpu.open, backend: "cpu" });
    const report = await merge(recipe, { ...options, output: gpu.open, backend: "webgpu" });
    // A stream that takes its time, and one that breaks.
    const later = async (/** @type {string} */ file, /** @type {number} */ bytes) => {
      await new Promise((resolve) => setTimeout(resolve, 20));
      return slow.open(file, bytes);
    };
    await merge(recipe, { ...options, output: later, backend: "auto" });
    const breaking = (/** @type {string} */ file) => new WritableStream({
      write: () => { throw new Error(`no more of ${file}`); },
    });
    const broken = await outcome(merge(recipe, { ...options, output: breaking }));
    const refusing = () => { throw new TypeError("not today"); };
    const refused = await outcome(merge(recipe, { ...options, output: refusing }));
    /** @type {{ file: string, bytes: number, got: number, end: string }[]} */
    const log = cpu.log;
    return {
      hashes: await merges.hashes(cpu.files), slowHashes: await merges.hashes(slow.files), log, slowLog: slow.log,
      paths: report.tensors.map((/** @type {any} */ { path }) => path), apart: merges.compare(gpu.files, cpu.files), broken, refused,
    };
  }, RECIPE);
  assert.deepEqual(result.hashes, HASHES);
  assert.deepEqual(result.slowHashes, HASHES);
  assert.deepEqual(result.slowLog, result.log);
  const names = result.log.map(({ file }) => file);
  // What is small comes first, so that its failure costs no hours.
  const weights = names.filter((name) => /^model-.*safetensors$/.test(name));
  assert.deepEqual(weights, [1, 2, 3, 4].map((n) => `model-0000${n}-of-00004.safetensors`));
  assert.ok(names.indexOf("tokenizer.json") < names.indexOf(weights[0] ?? ""));
  // What makes the directory a checkpoint comes last.
  assert.deepEqual(names.slice(-2).sort(), ["config.json", "model.safetensors.index.json"]);
  assert.ok(result.log.every(({ bytes, got, end }) => bytes === got && end === "closed"), JSON.stringify(result.log));
  const { elements, different, ulps } = result.apart;
  console.log(`    GPU and CPU: ${different} of ${elements} elements differ, by ${ulps} ulps at most`);
  // Small tensors are done before a result could be read back.
  const onDevice = result.paths.filter((/** @type {string} */ path) => path === "gpu").length;
  assert.ok(onDevice >= 10, result.paths.join());
  assert.ok(elements === 3_148_224 && different * 1000 <= elements && ulps <= 1);
  assert.match(result.broken.message ?? "", /tokenizer\.json.*no more of/);
  assert.match(result.refused.message ?? "", /tokenizer\.json.*not today/);
});

test("a recipe as a model runs as the merged checkpoint does, and takes other recipes", async (t) => {
  const { page } = await openMerges(t);
  const prompts = (GOLDEN.models.merged ?? []).map(({ input_ids }) => input_ids);
  const result = await page.evaluate(async (recipe, prompts) => {
    const { bise: { Engine, outcome, proof }, merges } = /** @type {any} */ (globalThis);
    /** @type {any[]} */
    const tensors = [];
    const engine = await Engine.load({ recipe, models: merges.models }, { weights: "checkpoint", onTensor: (/** @type {any} */ tensor) => tensors.push(tensor.tensor) });
    const answers = [];
    for (const prompt of prompts) {
      const { choices } = await engine.completions.create({ prompt, temperature: 0, max_tokens: 48, ignore_eos: true, logprobs: 20 });
      answers.push({ ids: choices[0].token_ids, first: choices[0].logprobs.top_logprobs[0] });
    }
    const totals = engine.mergeReport.totals;
    const of = (/** @type {number} */ t) => `${recipe.slice(0, recipe.indexOf("parameters:"))}parameters: {t: ${t}}\n`;
    const replaced = await engine.replaceWeights({ recipe: of(0), models: merges.models });
    const tale = await proof(engine);
    // One that does not fit leaves what was there.
    const bad = await outcome(engine.replaceWeights({ recipe: of(0).replace("[0, 6]", "[0, 5]").replace("[0, 6]", "[0, 5]"), models: merges.models }));
    const still = await outcome(proof(engine));
    // Back to the merge: nothing of the other weights remains.
    await engine.replaceWeights({ recipe, models: merges.models });
    const { choices } = await engine.completions.create({ prompt: prompts[0], temperature: 0, max_tokens: 48, ignore_eos: true });
    await engine.dispose();
    return { tensors, answers, totals, replaced: replaced.totals, tale, bad, still: still.value, again: choices[0].token_ids };
  }, RECIPE, prompts);
  const vocabulary = vocabularyOf("tale");
  for (const [i, entry] of (GOLDEN.models.merged ?? []).entries()) {
    const answer = result.answers[i];
    assert.equal(wrongIds(answer?.ids ?? [], entry), null, entry.prompt);
    assert.equal(wrongLogprobs(answer?.first, entry, vocabulary), null, entry.prompt);
    // The parents' golden values are others, so this can fail.
    const parent = GOLDEN.models.tale?.[i];
    assert.ok(parent && wrongLogprobs(answer?.first, parent, vocabulary) !== null, entry.prompt);
  }
  assert.equal(result.tensors.length, 57);
  assert.equal(result.totals.tensors, 57);
  assert.ok(result.totals.distances.every((/** @type {number} */ distance) => distance > 0.01), String(result.totals.distances));
  assert.ok(result.replaced.distances[0] < 1e-9, String(result.replaced.distances));
  assert.ok(result.tale.startsWith(TALE_PROOF.slice(0, 10)), result.tale);
  assert.match(result.bad.code ?? "", /^bad-/);
  assert.equal(result.still, result.tale);
  assert.deepEqual(result.again, result.answers[0]?.ids);
});

test("a merge that is aborted or cut off leaves no checkpoint and nothing unfinished", async (t) => {
  const { page, url } = await openMerges(t, { bytesPerSecond: 6e6, expectErrors: [/ERR_CONTENT_LENGTH_MISMATCH/, /ERR_INCOMPLETE_CHUNKED/] });
  const result = await page.evaluate(async (recipe, url) => {
    const { bise: { merge, outcome }, merges } = /** @type {any} */ (globalThis);
    /** Aborts once so many bytes are written. */
    const stopAt = async (/** @type {number} */ bytes, /** @type {object} */ options) => {
      const controller = new AbortController();
      const seen = { late: 0, abortedAt: 0, done: 0, total: 0 };
      const onProgress = (/** @type {any} */ { done, total }) => {
        if (controller.signal.aborted) seen.late += 1;
        if (controller.signal.aborted || done < bytes) return;
        Object.assign(seen, { abortedAt: performance.now(), done, total });
        controller.abort();
      };
      const end = await outcome(merge(recipe, { models: merges.models, backend: "cpu", signal: controller.signal, onProgress, ...options }));
      return { ...seen, code: end.code, tookMs: performance.now() - seen.abortedAt };
    };
    const output = await merges.folder("aborted");
    const stopped = await stopAt(3e6, { output, shardBytes: 1e6 });
    const left = [...(await merges.readAll(output)).keys()].sort();
    /** @type {{ log: { file: string, end: string }[], open: unknown }} */
    const { log, open } = merges.memory();
    const stream = await stopAt(3e6, { output: open });
    const early = await outcome(merge(recipe, { models: merges.models, output, signal: AbortSignal.abort() }));
    // The connection breaks in the middle of one of the parents.
    const damaged = await merges.folder("cut");
    const models = { ...merges.models, "./case": `${url}/fault/cut.0~5-/model-00002-of-00003.safetensors/models/case/` };
    const cut = await outcome(merge(recipe, { models, output: damaged, shardBytes: 1e6, network: { attempts: 2, backoffMs: 20 } }));
    const cutLeft = [...(await merges.readAll(damaged)).keys()].sort();
    // A folder that holds something is refused; another takes the next merge.
    const full = await outcome(merge(recipe, { models: merges.models, output, shardBytes: 1e6 }));
    const next = await merges.folder("next");
    await merge(recipe, { models: merges.models, output: next, shardBytes: 1e6 });
    const after = await merges.hashes(await merges.readAll(next));
    return { full, stopped, left, stream, log, early: early.code, cut, cutLeft, after };
  }, RECIPE, url);
  for (const { code, late, tookMs, done, total } of [result.stopped, result.stream]) {
    assert.equal(code, "aborted");
    assert.ok(done < total, `${done} of ${total}`);
    assert.equal(late, 0, "progress after the abort");
    assert.ok(tookMs < 2000, `took ${tookMs} ms`);
  }
  // Whole files keep their names: without config.json and index they are no checkpoint.
  const isWhole = (/** @type {string} */ name) => !/partial$|^config\.json$|index\.json$/.test(name);
  assert.ok(result.left.filter((name) => /^model-0000\d-of-00007\.safetensors$/.test(name)).length >= 2, result.left.join());
  assert.ok(result.left.every(isWhole), result.left.join());
  const ends = result.log.map(({ file, end }) => [file, end]);
  assert.deepEqual(ends.at(-1), ["model.safetensors", "aborted"]);
  assert.ok(ends.slice(0, -1).every(([, end]) => end === "closed"), ends.join());
  assert.deepEqual([result.full.code, /empty one/.test(result.full.message ?? "")], ["bad-request", true], result.full.message);
  assert.equal(result.early, "aborted");
  assert.equal(result.cut.code, "network", result.cut.message);
  assert.match(result.cut.message ?? "", /model-00002-of-00003\.safetensors/);
  assert.ok(result.cutLeft.every(isWhole), result.cutLeft.join());
  assert.deepEqual(result.after, HASHES);
});

test("a browser without WebGPU merges all the same", async (t) => {
  const { page } = await openMerges(t);
  const result = await page.evaluate(async (recipe) => {
    const { bise: { merge, Engine, outcome }, merges } = /** @type {any} */ (globalThis);
    merges.withoutGpu();
    const { files, open } = merges.memory();
    const report = await merge(recipe, { models: merges.models, output: open });
    const insisted = await outcome(merge(recipe, { models: merges.models, output: merges.memory().open, backend: "webgpu" }));
    const loaded = await outcome(Engine.load({ recipe, models: merges.models }, { backend: "webgpu" }));
    return { hashes: await merges.hashes(files), paths: report.tensors.map((/** @type {any} */ { path }) => path), insisted, loaded };
  }, RECIPE);
  assert.deepEqual(result.hashes, HASHES);
  assert.ok(result.paths.every((/** @type {string} */ path) => path === "cpu"));
  assert.equal(result.loaded.code, "no-webgpu", "the worker has WebGPU after all");
  assert.equal(result.insisted.code, "no-webgpu", result.insisted.message);
});

test("what cannot be merged is said with its place", async (t) => {
  const { page, url } = await openMerges(t, { expectErrors: [/404/] });
  const result = await page.evaluate(async (recipe, url) => {
    const { bise: { merge, Engine, outcome }, merges } = /** @type {any} */ (globalThis);
    const log = merges.memory();
    const run = (/** @type {any} */ text, /** @type {object} */ more = {}) => outcome(merge(text, { models: merges.models, output: log.open, ...more }));
    const nan = { ...merges.models, "./case": `${url}/fault/nan/model-00003-of-00003.safetensors/models/case/` };
    const ends = {
      method: await run(recipe.replace("slerp", "ties")),
      layers: await run(recipe.replaceAll("[0, 6]", "[0, 7]")),
      missing: await run(recipe.replace("    - value: 0.5\n", "")),
      loaded: await outcome(Engine.load({ recipe: recipe.replace("slerp", "slurp"), models: merges.models })),
      unknown: await run(recipe, { models: { ...merges.models, "./tail": "/models/tale/" } }),
      nowhere: await run(recipe, { models: { ...merges.models, "./case": "/models/nowhere/" } }),
      nan: await run(recipe, { models: nan }),
      text: await run(7),
      output: await run(recipe, { output: "folder" }),
      option: await run(recipe, { shards: 7 }),
    };
    return { ends, begun: log.log.map((/** @type {any} */ { file, end }) => [file, end]) };
  }, RECIPE, url);
  for (const [name, code, words] of /** @type {const} */ ([
    ["method", "bad-recipe", /line 7: merge_method.*ties/],
    ["layers", "bad-recipe", /line 3: slices\[0\]\.sources\[0\].*at most 6/],
    ["missing", "bad-recipe", /line 2: slices\[0\].*model\.embed_tokens\.weight/],
    ["loaded", "bad-recipe", /slurp/],
    ["unknown", "bad-request", /\.\/tail/],
    ["nowhere", "bad-checkpoint", /\.\/case.*config\.json/],
    ["nan", "bad-checkpoint", /\.\/case: model-00003.* NaN/],
    ["text", "bad-request", /recipe/],
    ["output", "bad-request", /output/],
    ["option", "bad-request", /shards/],
  ])) {
    const end = /** @type {Record<string, { code?: string, message?: string }>} */ (result.ends)[name];
    assert.equal(end?.code, code, `${name}: ${end?.message}`);
    assert.match(end?.message ?? "", words, name);
  }
  // Only the damaged parent was met after writing had begun.
  assert.deepEqual(result.begun.at(-1), ["model.safetensors", "aborted"]);
  assert.ok(result.begun.slice(0, -1).every((/** @type {string[]} */ [, end]) => end === "closed"), result.begun.join());
});

if (browserName() === "chromium") {
  // Only Chromium's protocol can make a quota small.
  test("storage that is full is told as quota", async (t) => {
    const { page, url } = await openMerges(t);
    const session = await page.createCDPSession();
    await session.send("Storage.overrideQuotaForOrigin", { origin: url, quotaSize: 4e6 });
    const merged = () => page.evaluate(async (recipe) => {
      const { bise: { merge, outcome }, merges } = /** @type {any} */ (globalThis);
      const output = await merges.folder("full");
      const end = await outcome(merge(recipe, { models: merges.models, output, shardBytes: 1e6 }));
      return { code: end.code, message: end.message, left: [...(await merges.readAll(output)).keys()].sort() };
    }, RECIPE);
    const full = await merged();
    assert.equal(full.code, "quota", full.message);
    assert.match(full.message ?? "", /model-0000\d-of-00007\.safetensors/);
    assert.ok(full.left.every((name) => !/partial$|^config\.json$|index\.json$/.test(name)), full.left.join());
    await session.send("Storage.overrideQuotaForOrigin", { origin: url });
    const free = await merged();
    assert.equal(free.code, undefined, free.message);
    assert.ok(free.left.includes("config.json"));
    await session.detach();
  });
}
