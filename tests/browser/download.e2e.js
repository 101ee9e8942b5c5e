// A merge that the browser saves as one archive while it is computed.

import assert from "node:assert/strict";
import { readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import test from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { unpackTar } from "modern-tar";
import { savedDownload, tensorHashes } from "./downloads.js";
import { openPage } from "./harness.js";
import { browserName } from "./launch.js";
import { mergeInto, shown } from "./merge_page.js";
import { fromTop } from "./paths.js";

/** Every tensor of the first preset as the CPU merges it natively. */
const HASHES = JSON.parse(readFileSync(fromTop("tests/fixtures/vectors/merged_cpu.json"), "utf8")).tensor_sha256;
const FILES = ["README.md", "config.json", "generation_config.json", "mergekit_config.yml", "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"];
const NAME = "tale-x-case.tar";
/** Both parents' weights at this rate take seconds, in which a merge can be stopped. */
const SLOW = { bytesPerSecond: 1.5e6 };
/** What browsers write to the console about a download that its page ends. */
const ENDED = /A ServiceWorker intercepted the request and encountered an unexpected error/;

/** Files of a download that is complete, or looks so. @param {string} downloads */
const complete = (downloads) => readdirSync(downloads).filter((name) => name.endsWith(".tar") && statSync(join(downloads, name)).size > 0);

/** @param {import("puppeteer-core").Page} page */
async function start(page) {
  await shown(page, ".curve-attention [role=slider]");
  await page.click("#to-download");
  await page.waitForSelector("#run-start:enabled");
  await page.click("#run-start");
}

/** @param {import("puppeteer-core").Page} page */
async function startSome(page) {
  await start(page);
  await page.waitForFunction(() => /** @type {HTMLProgressElement} */ (document.querySelector("#run-progress")).value > 0.05);
}

test("a merge is downloaded as one archive, at any path, and stored nowhere", async (t) => {
  const { page, downloads } = await openPage(t, "/some/where/#merge", { mounts: { "/some/where/": fromTop("target/site") } });
  t.after(() => rmSync(join(downloads, NAME), { force: true }));
  await shown(page, ".curve-attention [role=slider]");
  assert.equal(await mergeInto(page, "download"), `Saved as “${NAME}” among your downloads`);
  const archive = await savedDownload(downloads, NAME);
  const files = new Map((await unpackTar(archive, { strict: true })).map(({ header, data }) => [header.name, data]));
  assert.deepEqual([...files.keys()].sort(), FILES.map((name) => `tale-x-case/${name}`));
  assert.deepEqual(tensorHashes(files.get("tale-x-case/model.safetensors") ?? new Uint8Array()), HASHES);
  // What makes it a checkpoint comes last: an archive that was cut off holds none.
  assert.equal([...files.keys()].at(-1), "tale-x-case/config.json");
  assert.equal(JSON.parse(Buffer.from(files.get("tale-x-case/config.json") ?? []).toString()).num_hidden_layers, 6);
  assert.deepEqual(await page.evaluate(async () => {
    const names = [];
    for await (const name of /** @type {any} */ (await navigator.storage.getDirectory()).keys()) names.push(name);
    return names.filter((name) => name !== "bise-cache"); // the chat's model
  }), []);
  // The worker stands between the page and nothing else.
  assert.equal(await page.evaluate(() => navigator.serviceWorker.controller), null);
  assert.equal(await page.$("iframe"), null);
});

test("a download that is stopped leaves no file of its name", async (t) => {
  const { page, downloads } = await openPage(t, "/#merge", { ...SLOW, expectErrors: [ENDED] });
  await startSome(page);
  await page.click("#run-stop");
  await page.waitForFunction(() => document.querySelector("#merge-message")?.textContent?.includes("Stopped"));
  await sleep(2000);
  assert.deepEqual(complete(downloads), []);
});

test("a merge whose parent breaks off ends its download", async (t) => {
  const { page, url, downloads } = await openPage(t, "/#merge", { expectErrors: [/ERR_CONTENT_LENGTH_MISMATCH/, /ERR_INCOMPLETE_CHUNKED/, ENDED] });
  await shown(page, ".curve-attention [role=slider]");
  await page.$eval("#parent-1", (node, address) => {
    /** @type {HTMLInputElement} */ (node).value = address;
    node.dispatchEvent(new Event("change"));
  }, `${url}/fault/cut/model-00002-of-00003.safetensors/models/case/`);
  await start(page);
  await page.waitForFunction(() => /model-00002-of-00003/.test(document.querySelector("#merge-message")?.textContent ?? ""));
  await sleep(2000);
  assert.deepEqual(complete(downloads), []);
});

if (browserName() === "chromium") {
  // Only Chromium's protocol can cancel a download.
  test("a download that the visitor cancels stops the merge", async (t) => {
    const { page, downloads } = await openPage(t, "/#merge", SLOW);
    const session = await page.browser().target().createCDPSession();
    const begun = new Promise((resolve) => session.on("Browser.downloadWillBegin", ({ guid }) => resolve(guid)));
    const browserContextId = page.browserContext().id;
    await session.send("Browser.setDownloadBehavior", { behavior: "allow", downloadPath: downloads, eventsEnabled: true, ...(browserContextId ? { browserContextId } : {}) });
    await startSome(page);
    await session.send("Browser.cancelDownload", { guid: String(await begun), ...(browserContextId ? { browserContextId } : {}) });
    await page.waitForFunction(() => document.querySelector("#merge-message")?.textContent?.includes("Stopped"));
    assert.deepEqual(complete(downloads), []);
    await session.detach();
  });
}

test("where the window keeps no service worker, the browser's storage remains", async (t) => {
  const { page, url } = await openPage(t, "/");
  await page.evaluateOnNewDocument(() => { delete (/** @type {any} */ (Navigator.prototype).serviceWorker); });
  await page.goto(`${url}/#merge`);
  await page.reload();
  await shown(page, ".curve-attention [role=slider]");
  assert.deepEqual(await page.evaluate(() => ["to-download", "to-storage"].map((id) => /** @type {HTMLInputElement} */ (document.getElementById(id)).disabled)), [true, false]);
  await shown(page, "#no-download");
});
