// A page with the client package loaded, for tests that use it without the page's own interface.

import { openPage } from "./harness.js";

/** What {@link proof} in pages/client.js answers with the model tale. */
export const TALE_PROOF = "went to the door.\n";

/**
 * Opens a page that has the client as `globalThis.bise`.
 * @param {import("node:test").TestContext} t
 * @param {import("./harness.js").PageOptions} [options]
 */
export async function openClient(t, options = {}) {
  const opened = await openPage(t, "/pages/client.html", options);
  await opened.page.waitForFunction("globalThis.bise !== undefined");
  return opened;
}
