/** Starts the workers, also from a package that lies on another origin. */

/** @returns {Worker} */
export function spawnWorker() {
  const url = new URL("./worker.js", import.meta.url);
  // Bundlers look for exactly this expression.
  return isOurs(url) ? new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "bise" }) : spawnForeign(url);
}

/** The worker with the bench. @returns {Worker} */
export function spawnBenchWorker() {
  const url = new URL("./bench_worker.js", import.meta.url);
  return isOurs(url) ? new Worker(new URL("./bench_worker.js", import.meta.url), { type: "module", name: "bise bench" }) : spawnForeign(url);
}

/** @param {URL} url */
const isOurs = (url) => url.origin === globalThis.location.origin;

/**
 * A worker's script must be of the page's origin; what that script imports need not be.
 *
 * @param {URL} url
 */
function spawnForeign(url) {
  const script = new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" });
  const scriptUrl = URL.createObjectURL(script);
  const worker = new Worker(scriptUrl, { type: "module", name: "bise" });
  const revoke = () => URL.revokeObjectURL(scriptUrl);
  worker.addEventListener("message", revoke, { once: true });
  worker.addEventListener("error", revoke, { once: true });
  return worker;
}
