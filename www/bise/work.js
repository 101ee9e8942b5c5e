/** What every worker of the package does: answers calls with its wasm module, and says so when that crashes. */

import { BiseError } from "./errors.js";
import { serve } from "./serve.js";
import { openKept, openSession } from "./session.js";
import { withSubgroups } from "./subgroups.js";
import { noteTuning, readTunings } from "./tuning.js";

/** @type {import("./serve.js").Port} */
const port = {
  postMessage: (message) => self.postMessage(message),
  addEventListener: (type, listener) => self.addEventListener(type, listener),
};

/**
 * Answers this worker's calls for as long as it lives.
 *
 * @param {import("./serve.js").Wasm} wasm
 */
export function work(wasm) {
  // A trap inside a future settles no promise: it only shows up here. The page is told what it was, not just that
  // something was not caught.
  self.addEventListener("error", (event) => {
    event.preventDefault();
    console.error(event.message, event.error);
    crashed(event.error ?? event.message);
  });
  self.addEventListener("unhandledrejection", (event) => crashed(event.reason));

  /** @param {unknown} reason */
  async function crashed(reason) {
    const outOfMemory = reason instanceof WebAssembly.RuntimeError && await isFull();
    port.postMessage({ type: "crashed", message: reason instanceof Error ? reason.message : String(reason), outOfMemory });
  }

  /** A trap does not say that memory was refused; nothing of this size fits any more then. */
  const ROOM_PAGES = 1024; // 64 MiB

  /** Whether the module, which is of no use any more, cannot have more memory. */
  async function isFull() {
    const { memory } = /** @type {{ memory: WebAssembly.Memory }} */ (await wasm.default());
    try {
      memory.grow(ROOM_PAGES);
      return false;
    } catch {
      return true;
    }
  }

  serve(port, wasm, { check, adapter, openSession, openKept, readTunings, noteTuning });
}

function check() {
  if ("gpu" in navigator) return;
  const remedy = self.isSecureContext
    ? "Use a current Chrome, Edge, Firefox or Safari, and check that hardware acceleration is on in its settings."
    : "Browsers offer it on secure pages only: open this page over https:// or from localhost.";
  throw new BiseError("no-webgpu", `This browser offers no WebGPU here. ${remedy}`);
}

/**
 * Browsers tell little, and not all of it to the library below: a description, or maker and family. From here on
 * devices get subgroups, where there are any.
 */
async function adapter() {
  // TypeScript's own declarations do not know WebGPU in every version.
  const { gpu } = /** @type {{ gpu?: { requestAdapter(options: object): Promise<any> } }} */ (/** @type {unknown} */ (navigator));
  const found = await gpu?.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  const { description = "", vendor = "", architecture = "", device = "", isFallbackAdapter } = found?.info ?? {};
  return {
    name: String(description || [vendor, architecture].filter(Boolean).join(" ")),
    identity: [vendor, architecture, device, description].filter(Boolean).join(", "),
    // Browsers have moved this from one object to the other.
    fallback: Boolean(isFallbackAdapter ?? found?.isFallbackAdapter),
    insecure: !self.isSecureContext,
    subgroup: withSubgroups(found),
  };
}
