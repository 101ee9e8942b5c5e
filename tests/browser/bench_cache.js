// What it is worth to keep a model: `./build.sh bench cache`. On a line of 20 MB/s, the time to the first token of a
// first visit, and of later ones with the model kept. Ends with 1 if they are not at least five times sooner.

import { launch } from "./launch.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

const BYTES_PER_SECOND = 20_000_000;
const RATIO_AT_LEAST = 5;
const RELOADS = 3;

/**
 * One visit: the marks of the way to the first token, in milliseconds from the navigation on.
 * @param {import("puppeteer-core").Page} page
 * @param {string} url
 */
async function visit(page, url) {
  await page.goto(`${url}/pages/client.html`, { waitUntil: "load" });
  await page.waitForFunction("globalThis.bise !== undefined");
  return page.evaluate(async () => {
    const { Engine } = /** @type {any} */ (globalThis).bise;
    /** @type {[string, number][]} */
    const marks = [["page and scripts", 0], ["worker, wasm, revision", performance.now()]];
    const names = /** @type {Record<string, string>} */ ({ adapter: "adapter", config: "small files, allocation", weights: "weights", shaders: "shaders" });
    const onProgress = (/** @type {{ phase: string }} */ { phase }) => {
      const name = names[phase] ?? phase;
      if (!marks.some(([each]) => each === name)) marks.push([name, performance.now()]);
    };
    const engine = await Engine.load("me/smollm2", { hubUrl: location.origin, onProgress });
    marks.push(["prompt and first token", performance.now()]);
    const stream = await engine.completions.create({ prompt: "Once upon a time", temperature: 0, max_tokens: 2, stream: true });
    await stream.next();
    marks.push(["", performance.now()]);
    for await (const chunk of stream) void chunk;
    const { cache, adapter } = engine.info;
    await engine.dispose();
    return { marks, state: cache.state, note: cache.note, adapter: adapter.name };
  });
}

/** @param {Awaited<ReturnType<typeof visit>>} visited */
const firstToken = ({ marks }) => marks.at(-1)?.[1] ?? NaN;

const server = await startServer({
  root: fromTop("target/site"),
  mounts: { "/pages/": fromTop("tests/browser/pages") },
  hub: { "me/smollm2": MODELS.smollm2 },
});
const { browser, close } = await launch("chromium", undefined, { networkEnabled: false });
try {
  const page = await browser.newPage();
  // The page and the wasm module are in the browser's own cache both times: what differs is the model.
  await page.goto(`${server.url}/pages/client.html`, { waitUntil: "load" });
  server.options.bytesPerSecond = BYTES_PER_SECOND;
  const first = await visit(page, server.url);
  const sentFirst = server.log.reduce((sum, { bytes }) => sum + bytes, 0);
  server.log.length = 0;
  const reloads = [];
  for (let i = 0; i < RELOADS; i += 1) reloads.push(await visit(page, server.url));
  reloads.sort((a, b) => firstToken(a) - firstToken(b));
  const middle = reloads[Math.floor(RELOADS / 2)] ?? first;
  const row = (/** @type {string} */ name, /** @type {string[]} */ ...values) => console.log(name.padEnd(34) + values.map((value) => value.padStart(14)).join(""));
  row("adapter", first.adapter);
  row("", "first visit", "model kept");
  for (const [name] of first.marks.slice(0, -1)) row(name, part(first, name), part(middle, name));
  row("time to first token", `${firstToken(first).toFixed(0)} ms`, `${firstToken(middle).toFixed(0)} ms`);
  row(`  of ${RELOADS} visits, each`, "", reloads.map((each) => firstToken(each).toFixed(0)).join(" "));
  row("bytes sent", String(sentFirst), String(server.log.reduce((sum, { bytes }) => sum + bytes, 0)));
  const ratio = firstToken(first) / firstToken(middle);
  row(`times sooner (at least ${RATIO_AT_LEAST})`, "", ratio.toFixed(2));
  const weights = server.log.filter(({ path }) => path.endsWith(".safetensors"));
  if (first.state !== "stored" || reloads.some(({ state }) => state !== "loaded")) fail(`the model was not kept: ${first.state}, ${middle.state} (${first.note})`);
  if (weights.length > 0) fail(`${weights.length} requests for weights`);
  if (!(ratio >= RATIO_AT_LEAST)) fail(`only ${ratio.toFixed(2)} times sooner`);
} finally {
  await close();
  await server.close();
}

/**
 * How long a part took: it ends where the next one begins.
 * @param {Awaited<ReturnType<typeof visit>>} visited
 * @param {string} name
 */
function part({ marks }, name) {
  const at = marks.findIndex(([each]) => each === name);
  const [begin, end] = [marks[at]?.[1] ?? NaN, marks[at + 1]?.[1] ?? NaN];
  return `${(end - begin).toFixed(0)} ms`;
}

/** @param {string} why */
function fail(why) {
  console.log(`failed: ${why}`);
  process.exitCode = 1;
}
