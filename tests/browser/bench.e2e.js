// The bench page, as a visitor uses it.

import assert from "node:assert/strict";
import test from "node:test";
import { openPage } from "./harness.js";
import { browserName } from "./launch.js";

/** @typedef {import("puppeteer-core").Page} Page */

/** @param {Page} page */
const status = (page) => page.$eval("#bench-status", ({ textContent }) => textContent ?? "");

test("the page times the embedded model, draws it, and offers it as JSON", async (t) => {
  const { page, screenshot } = await openPage(t, "/");
  page.setDefaultTimeout(590_000); // a machine that does other things besides
  await Promise.all([page.waitForNavigation(), page.click('nav a[href="bench.html"]')]);
  assert.ok(await page.$eval("#bench-quick", (box) => /** @type {HTMLInputElement} */ (box).checked));
  await page.click("#bench-run");
  await page.waitForSelector(":is(#bench-result, #bench-error):not([hidden])");
  assert.equal(await page.$eval("#bench-error", ({ textContent }) => textContent), "");
  assert.equal(await status(page), "Done.");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "bench-result");

  const report = await page.$eval("#bench-result a[download]", async (link) => (
    (await fetch(/** @type {HTMLAnchorElement} */ (link).href)).json()
  ));
  assert.equal(report.model, "./models/tale/");
  assert.ok(report.deviation > 0 && report.deviation < 5e-3, `${report.deviation}`);
  /** @type {import("../../www/bise/index.js").Figure[]} */
  const figures = report.figures;
  const of = (/** @type {string} */ kind) => figures.filter((figure) => figure.kind === kind);
  assert.deepEqual(of("prefill").map(({ at }) => at), [16, 128]);
  assert.deepEqual(of("decode").map(({ at }) => at), [16]);
  assert.ok(of("prefill").concat(of("decode"), of("merge"), of("load")).every(({ ratio }) => ratio !== null && ratio > 0));
  assert.deepEqual(of("submits").map(({ value }) => value), [1]);
  // SwiftShader has timestamps; where there are none, kernels are counted all the same.
  assert.equal(of("time").length > 0, !report.notes.some((/** @type {string} */ note) => note.includes("no timestamps")));
  if (of("time").length > 0) {
    const [summed = NaN, looped = NaN, beside = NaN] = of("token").map(({ value }) => value);
    assert.ok(summed > 0 && Math.abs(looped - summed - beside) < 1e-9, `${summed} ${looped} ${beside}`);
    assert.ok(of("time").some(({ name }) => name === "sample_pick"));
    assert.match(await page.$eval("#bench-result", ({ textContent }) => textContent ?? ""), /Together .* in the token loop a token takes/);
  }
  assert.equal(report.walkBytes, 64 * 2 ** 20, "software adapters walk less");
  if (browserName() === "chromium") assert.ok(of("time").length > 3 && of("time").some(({ value }) => value > 0));

  // Under each chart there is a table with the same rows.
  const drawn = await page.$$eval(".chart", (charts) => charts.map((chart) => ({
    bars: chart.querySelectorAll(".fill").length,
    rows: chart.nextElementSibling?.querySelectorAll("tbody tr").length,
    label: chart.querySelector("svg")?.getAttribute("aria-label"),
    widths: [...chart.querySelectorAll(".fill")].map((bar) => bar.getBoundingClientRect().width),
  })));
  assert.equal(drawn.length, 2);
  for (const { bars, rows, label, widths } of drawn) {
    assert.ok(bars > 3 && bars === rows && label, JSON.stringify({ bars, rows, label }));
    assert.ok(new Set(widths).size > 2, `all bars alike: ${widths}`);
  }
  for (const [name, width, height] of /** @type {const} */ ([["desktop", 1200, 900], ["phone", 390, 800]])) {
    await page.setViewport({ width, height });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(wide <= 0, `${name} scrolls sideways by ${wide}`);
    for (const scheme of browserName() === "chromium" ? ["light", "dark"] : ["light"]) {
      if (browserName() === "chromium") await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.evaluate(() => scrollTo(0, 0));
      await screenshot(`bench-${name}-${scheme}`);
      await page.$eval("#bench-result h3", (head) => head.scrollIntoView());
      await screenshot(`bench-${name}-${scheme}-charts`);
    }
  }
});

test("a bench stops when asked to, and says what is wrong with a model", async (t) => {
  const { page } = await openPage(t, "/bench.html", { expectErrors: [/404/] });
  page.setDefaultTimeout(120_000);
  await page.click("#bench-run");
  await page.waitForFunction(() => /adapter|limits|logits/i.test(document.querySelector("#bench-status")?.textContent ?? ""));
  await page.click("#bench-stop");
  await page.waitForFunction(() => document.querySelector("#bench-status")?.textContent === "Stopped.");
  assert.ok(await page.$eval("#bench-run", (button) => button.matches(":enabled")));

  await page.type("#bench-address", "./nothing/");
  assert.ok(await page.$eval('[name="model"][value=""]', (radio) => /** @type {HTMLInputElement} */ (radio).checked), "typing chooses");
  await page.click("#bench-run");
  const message = await page.waitForSelector("#bench-error:not([hidden])");
  assert.match(await message?.evaluate(({ textContent }) => textContent ?? "") ?? "", /config\.json/);
});
