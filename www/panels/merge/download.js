/**
 * A merge as one download that is stored nowhere on its way: the browser saves it while it is computed.
 *
 * A page can hand the browser's downloads only a Blob, which must be whole, or an address. So a service worker
 * answers an address of its own with a stream that this page fills. That works in Chromium and Firefox, on any
 * static host at any path and without special headers, and it needs no picker; where a window keeps no service
 * workers (a private one in Firefox, a page without https), there is the browser's storage.
 *
 * A checkpoint is several files, and browsers ask or refuse when a page downloads several. An uncompressed tar is
 * one: it needs no checksums of gigabytes as zip does, has no limit of 4 GB that some unpackers trip over, and
 * every system unpacks it. config.json is last in it, so that what was cut off unpacks to no checkpoint.
 */

import { BiseError } from "../../pkg/index.js";
import { createTarPacker } from "../../vendor/modern-tar/web/index.js";
import { element } from "../dom.js";

/** Between messages that keep the service worker alive: browsers end one that was idle for 30 seconds. */
const STAY_MS = 10_000;
/** Until a browser has asked for the address that it was sent to. */
const ASKED_MS = 20_000;

const WORKER = new URL("../../download-worker.js", import.meta.url);
const SCOPE = new URL("../../download/", import.meta.url);

/**
 * @typedef {object} Download
 * @property {(file: string, bytes: number) => WritableStream<Uint8Array>} open begins a file in it
 * @property {() => Promise<void>} finish completes it; it has its name only now
 * @property {(reason: unknown) => void} abort the browser throws away what it has
 * @property {AbortSignal} cancelled the visitor ended it among the browser's downloads, or it failed there
 */

/** Whether this browser may be able to. */
export function canDownload() {
  return "serviceWorker" in navigator && globalThis.isSecureContext;
}

/**
 * Begins the download of a folder `name` as `name.tar`.
 *
 * @param {string} name
 * @returns {Promise<Download>}
 * @throws {BiseError} `bad-request` where the browser cannot
 */
export async function startDownload(name) {
  const worker = await downloadWorker();
  const { readable, controller } = createTarPacker();
  const url = new URL(`${crypto.randomUUID()}/${encodeURIComponent(name)}.tar`, SCOPE).href;
  const cancelling = new AbortController();
  const sending = send(readable, { worker, url, name: `${name}.tar`, cancelling });
  // Whoever waits for it learns of it; nobody may be waiting yet.
  sending.catch(() => {});
  return {
    open: (file, bytes) => controller.add({ name: `${name}/${file}`, size: bytes, type: "file" }),
    finish: () => {
      controller.finalize();
      return sending;
    },
    abort: (reason) => controller.error(reason),
    cancelled: cancelling.signal,
  };
}

/** The service worker, running. @returns {Promise<ServiceWorker>} */
async function downloadWorker() {
  try {
    const registration = await navigator.serviceWorker.register(WORKER, { scope: SCOPE.href, updateViaCache: "none" });
    const worker = registration.installing ?? registration.waiting ?? registration.active;
    if (worker === null) throw new Error("no worker was registered");
    await new Promise((resolve, reject) => {
      const look = () => {
        if (worker.state === "activated") resolve(null);
        if (worker.state === "redundant") reject(new Error("the worker could not start"));
      };
      worker.addEventListener("statechange", look);
      look();
    });
    return worker;
  } catch (thrown) {
    const detail = thrown instanceof Error ? thrown.message : String(thrown);
    throw new BiseError("bad-request", `This browser does not let the page stream a download (${detail}). Save it in this browser instead, and download the files from there.`, { cause: thrown });
  }
}

/**
 * Sends the browser to `url`, and the worker there what `readable` gives. Ends when all was sent.
 *
 * @param {ReadableStream<Uint8Array<ArrayBuffer>>} readable
 * @param {{ worker: ServiceWorker, url: string, name: string, cancelling: AbortController }} to
 * @returns {Promise<void>}
 */
async function send(readable, { worker, url, name, cancelling }) {
  const reader = readable.getReader();
  const { port1: port, port2 } = new MessageChannel();
  const frame = element("iframe", { hidden: true });
  const stay = setInterval(() => worker.postMessage({ type: "stay" }), STAY_MS);
  const giveUp = setTimeout(() => end(new BiseError("bad-request", "The browser did not begin the download. Save it in this browser instead.")), ASKED_MS);
  /** @param {Error} reason */
  const end = (reason) => {
    cancelling.abort(reason);
    // It may have failed already.
    reader.cancel(reason).catch(() => {});
  };
  try {
    await new Promise((resolve, reject) => {
      const next = async () => {
        clearTimeout(giveUp);
        const { done, value } = await reader.read();
        if (done) {
          port.postMessage({ type: "end" });
          resolve(null);
          return;
        }
        // A view into a larger buffer would take all of that along.
        const piece = value.byteLength === value.buffer.byteLength ? value : value.slice();
        port.postMessage({ type: "piece", piece }, [piece.buffer]);
      };
      cancelling.signal.addEventListener("abort", () => reject(cancelling.signal.reason));
      port.onmessage = ({ data }) => {
        if (data.type === "announced") {
          frame.src = url;
          document.body.append(frame);
        } else if (data.type === "pull") {
          next().catch((thrown) => {
            port.postMessage({ type: "error" });
            reject(thrown);
          });
        } else {
          end(new BiseError("aborted", "The download was cancelled."));
        }
      };
      worker.postMessage({ type: "announce", url, name }, [port2]);
    });
  } finally {
    clearInterval(stay);
    clearTimeout(giveUp);
    frame.remove();
  }
}
