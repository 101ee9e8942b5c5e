/** The bench page: runs it, and draws what it found. */

import { BiseError, bench } from "./pkg/index.js";
import { achieved, amount, byKernel, digits, limits } from "./panels/bench/charts.js";
import { byId, element } from "./panels/dom.js";

/** @typedef {import("./pkg/index.js").BenchReport} BenchReport */

const form = byId("bench-form", HTMLFormElement);
const address = byId("bench-address", HTMLInputElement);
const quick = byId("bench-quick", HTMLInputElement);
const run = byId("bench-run", HTMLButtonElement);
const stop = byId("bench-stop", HTMLButtonElement);
const status = byId("bench-status", HTMLElement);
const failure = byId("bench-error", HTMLElement);
const result = byId("bench-result", HTMLElement);

/** @type {AbortController | null} */
let running = null;
let download = "";

// Who writes a name means it.
address.addEventListener("input", () => {
  const other = form.querySelector('[name="model"][value=""]');
  if (other instanceof HTMLInputElement) other.checked = true;
});
stop.addEventListener("click", () => running?.abort());
form.addEventListener("submit", (event) => {
  event.preventDefault();
  void start();
});

async function start() {
  const chosen = String(new FormData(form).get("model"));
  const model = chosen === "" ? address.value.trim() : chosen;
  address.setCustomValidity(model === "" ? "Name a model: owner/name, or the address of a folder." : "");
  if (!form.reportValidity()) {
    address.addEventListener("input", () => address.setCustomValidity(""), { once: true });
    return;
  }
  running = new AbortController();
  show(true);
  failure.hidden = true;
  result.hidden = true;
  try {
    const report = await bench(model, {
      quick: quick.checked,
      signal: running.signal,
      onProgress: (what) => { status.textContent = `${what.charAt(0).toUpperCase()}${what.slice(1)} …`; },
    });
    draw(report, model);
    status.textContent = "Done.";
  } catch (thrown) {
    const aborted = thrown instanceof BiseError && thrown.code === "aborted";
    status.textContent = aborted ? "Stopped." : "";
    if (!aborted) fail(thrown);
  } finally {
    running = null;
    show(false);
  }
}

/** @param {boolean} busy */
function show(busy) {
  run.disabled = busy;
  stop.hidden = !busy;
  result.setAttribute("aria-busy", String(busy));
}

/** @param {unknown} thrown */
function fail(thrown) {
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  failure.replaceChildren(element("h2", { textContent: "The bench did not run" }), element("p", { textContent: message }));
  failure.hidden = false;
}

/**
 * @param {BenchReport} report
 * @param {string} model
 */
function draw(report, model) {
  const { info, figures, notes, deviation, walkBytes, hostBytes } = report;
  const mib = (/** @type {number} */ bytes) => `${digits(bytes / 2 ** 20)} MiB`;
  const first = figures.filter(({ kind }) => kind === "first token");
  const submits = figures.find(({ kind }) => kind === "submits");
  const facts = /** @type {[string, string][]} */ ([
    ["Adapter", info.adapter.name + (info.adapter.software ? " (software)" : "")],
    ["Model", `${model}, ${digits(info.parameters / 1e6)} million weights`],
    ["Deviation of logits", `${deviation.toExponential(1)} of the largest`],
    ...first.map((figure) => [`First token, ${figure.name}`, amount(figure)]),
    ["Submits per token", submits === undefined ? "" : String(submits.value)],
    ["Limits read through", mib(walkBytes)],
    ["Memory on the device", mib(info.memory.total)],
    ["Memory of the engine", mib(hostBytes)],
  ]);
  const list = element("dl", { className: "facts" }, facts.map(([name, value]) => (
    element("div", {}, [element("dt", { textContent: name }), element("dd", { textContent: value })])
  )));
  URL.revokeObjectURL(download);
  download = URL.createObjectURL(new Blob([JSON.stringify({ model, date: new Date().toISOString(), agent: navigator.userAgent, ...report }, null, 1)], { type: "application/json" }));
  const save = element("a", { href: download, download: "bise-bench.json", textContent: "Download as JSON" });
  result.replaceChildren(
    list,
    ...(notes.length === 0 ? [] : [element("ul", { className: "notes" }, notes.map((note) => element("li", { textContent: note })))]),
    element("div", { className: "actions" }, [save]),
    element("h3", { textContent: "Achieved, as a share of the limit" }),
    ...achieved(figures),
    element("h3", { textContent: "Time by kernel" }),
    ...byKernel(figures),
    element("h3", { textContent: "Limits" }),
    ...limits(figures),
  );
  result.hidden = false;
  result.focus();
}
