/** Starts the worker, also from a package that lies on another origin. */

/** @returns {Worker} */
export function spawnWorker() {
  const url = new URL("./worker.js", import.meta.url);
  if (url.origin === globalThis.location.origin) {
    // Bundlers look for exactly this expression.
    return new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "bise" });
  }
  // A worker's script must be of the page's origin; what that script imports need not be.
  const script = new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" });
  const scriptUrl = URL.createObjectURL(script);
  const worker = new Worker(scriptUrl, { type: "module", name: "bise" });
  const revoke = () => URL.revokeObjectURL(scriptUrl);
  worker.addEventListener("message", revoke, { once: true });
  worker.addEventListener("error", revoke, { once: true });
  return worker;
}
