/**
 * A service worker that answers one kind of address: downloads whose bytes a page makes while they are saved.
 * See panels/merge/download.js for how and why. Its scope holds nothing else, so that it stands between the page
 * and no other request.
 */

/** @typedef {{ port: MessagePort, name: string }} Waiting */
/** The few members of ServiceWorkerGlobalScope that are used here: its types and those of a page exclude each other.
 * @typedef {object} Scope
 * @property {() => Promise<void>} skipWaiting
 * @property {(type: string, listener: (event: any) => void) => void} addEventListener
 */

const scope = /** @type {Scope} */ (/** @type {unknown} */ (self));

/** Downloads that were announced and not asked for yet, by address. @type {Map<string, Waiting>} */
const waiting = new Map();

scope.addEventListener("install", (event) => event.waitUntil(scope.skipWaiting()));

scope.addEventListener("message", (event) => {
  // Any message keeps this worker alive; a page that has a download under way sends some for that alone.
  if (event.data.type !== "announce") return;
  const { url, name } = event.data;
  const [port] = event.ports;
  waiting.set(url, { port, name });
  port.postMessage({ type: "announced" });
});

scope.addEventListener("fetch", (event) => {
  const found = waiting.get(event.request.url);
  if (found === undefined) return;
  waiting.delete(event.request.url);
  event.respondWith(new Response(body(found.port), {
    headers: {
      "Content-Type": "application/x-tar",
      "Content-Disposition": `attachment; filename*=UTF-8''${encodeURIComponent(found.name)}`,
      "Cache-Control": "no-store",
      "X-Content-Type-Options": "nosniff",
    },
  }));
});

/**
 * What the page sends, piece by piece, each only once the browser has room for it.
 *
 * @param {MessagePort} port
 * @returns {ReadableStream<Uint8Array>}
 */
function body(port) {
  return new ReadableStream({
    start: (controller) => {
      port.onmessage = ({ data }) => {
        if (data.type === "piece") controller.enqueue(data.piece);
        else if (data.type === "end") controller.close();
        // An error makes the browser throw away what it has.
        else controller.error(new Error("the page stopped this download"));
        if (data.type !== "piece") port.close();
      };
    },
    pull: () => port.postMessage({ type: "pull" }),
    cancel: () => port.postMessage({ type: "cancel" }),
  });
}
