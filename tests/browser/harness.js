// A page under test: a server, a browser context of its own, and errors that fail the test.
//
//   const { page, url, server, close } = await openPage(t, "/", { expectErrors: [/404/] });
//   const result = await page.evaluate(async () => ...);

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { after } from "node:test";
import { browserName, launch } from "./launch.js";
import { MODELS, fromTop } from "./paths.js";
import { startServer } from "./server.js";

/** @type {ReturnType<typeof launch> | null} */
let launched = null;

after(async () => (await launched)?.close()); // when the test file ends

/** The browser of this test file, started once. */
async function sharedBrowser() {
  launched ??= launch(browserName());
  return launched;
}

/**
 * What a test may set.
 * @typedef {Partial<import("./server.js").ServerOptions> & { expectErrors?: RegExp[], width?: number, height?: number }} PageOptions
 */

/**
 * Opens a path of the site. The page, its context (cookies, caches, OPFS) and its server end with the
 * test, which fails if the page logged an error or threw one that `expectErrors` does not name.
 * Beside the site the server has this folder's pages at `/pages/` and SmolLM2 at `/smollm2/`.
 * @param {import("node:test").TestContext} t
 * @param {string} [path]
 * @param {PageOptions} [options]
 */
export async function openPage(t, path = "/", options = {}) {
  const { expectErrors = [], width = 1200, height = 800, ...serverOptions } = options;
  const { browser, downloads, context: contextOptions } = await sharedBrowser();
  const server = await startServer({
    root: fromTop("target/site"),
    ...serverOptions,
    mounts: { "/pages/": fromTop("tests/browser/pages"), "/smollm2/": MODELS.smollm2, ...serverOptions.mounts },
  });
  const context = await browser.createBrowserContext(contextOptions);
  const page = await context.newPage();
  await page.setViewport({ width, height });
  page.setDefaultTimeout(120_000);

  /** @type {string[]} */
  const errors = [];
  page.on("pageerror", (error) => errors.push(error instanceof Error ? error.message : String(error)));
  page.on("console", (message) => {
    console.log(`    [page ${message.type()}] ${message.text()}`);
    if (message.type() === "error") errors.push(`${message.text()} ${message.location().url ?? ""}`);
  });

  let open = true;
  const close = async () => {
    if (!open) return;
    open = false;
    await context.close().finally(server.close);
    assert.deepEqual(errors.filter((error) => !expectErrors.some((expected) => expected.test(error))), [], "errors of the page");
  };
  t.after(close);

  /**
   * Takes a picture of the page into target/screenshots/.
   * @param {string} name
   */
  const screenshot = async (name) => {
    mkdirSync(fromTop("target/screenshots"), { recursive: true });
    const file = fromTop(`target/screenshots/${browserName()}-${name}.png`);
    await page.screenshot({ path: /** @type {`${string}.png`} */ (file) });
    return file;
  };

  await page.goto(server.url + path, { waitUntil: "load" });
  return { page, url: server.url, server, errors, downloads, screenshot, close };
}
