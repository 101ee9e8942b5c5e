// A page with the client package loaded, for tests that use it without the page's own interface.

import { openPage } from "./harness.js";
import { browserName } from "./launch.js";

/** What {@link proof} in pages/client.js answers with the model tale. */
export const TALE_PROOF = "went to the door.\n";

/**
 * For tests of what comes over a line with many loads: WebGPU in one browser, and the processor in the other, where each
 * load would compile for seconds, since SwiftShader keeps nothing. Chromium's way to WebGPU is walked by some loads more
 * in faults.e2e.js, and by those of SmolLM2 in stream.e2e.js.
 * @type {"webgpu" | "cpu"}
 */
export const EITHER_BACKEND = browserName() === "firefox" ? "webgpu" : "cpu";

/**
 * Opens a page that has the client as `globalThis.bise`. Its engines run on WebGPU, or on the backend that is named:
 * tests that are not about WebGPU take "auto", which is the processor here and much faster.
 * @param {import("node:test").TestContext} t
 * @param {import("./harness.js").PageOptions & { backend?: "auto" | "webgpu" | "cpu" }} [options]
 */
export async function openClient(t, { backend = "webgpu", ...options } = {}) {
  const opened = await openPage(t, `/pages/client.html?backend=${backend}`, options);
  await opened.page.waitForFunction("globalThis.bise !== undefined");
  return opened;
}
