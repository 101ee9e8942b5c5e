// The page's merge view, as a visitor uses it.

import assert from "node:assert/strict";
import test from "node:test";
import { openPage } from "./harness.js";
import { browserName } from "./launch.js";
import { PROMPT, anchors, curveIs, edit, greedy, mergeInto, recipe, reply, replyIs, send, shown } from "./merge_page.js";

test("a preset is merged, reported, and chatted with", async (t) => {
  const { page, screenshot } = await openPage(t, "/#merge");
  await shown(page, ".curve-attention [role=slider]");
  assert.equal(await page.$eval("#presets button", (node) => /** @type {HTMLElement} */ (node).dataset.preset), "reference", "the reference model's recipe comes first");
  assert.equal(await page.$eval('[data-preset="tale-x-case"]', (node) => node.getAttribute("aria-pressed")), "true");
  await greedy(page, 12);

  assert.equal(await mergeInto(page, "chat"), "Merged, and ready to chat");
  assert.match(await page.$eval("#report-totals", (node) => node.textContent ?? ""), /^57 tensors, 3\.15 million weights; 45 blended on the sphere, 12 linearly; the result lies 5\.5 % from tale and 6\.0 % from case\.$/);
  await page.waitForFunction(() => document.querySelectorAll(".charts .mark title").length === 57);
  assert.equal((await page.$$(".charts .mark.linear title")).length, 12);
  await page.click("#report-details summary");
  await shown(page, "#report-table td");
  const rows = await page.$$eval("#report-table tbody tr", (all) => all.map((row) => [...row.children].map((cell) => cell.textContent)));
  assert.equal(rows.length, 57);
  const query = rows.find(([name]) => name === "model.layers.0.self_attn.q_proj.weight");
  assert.deepEqual([query?.[1], query?.[2]], ["slerp", "0.000"]);
  await screenshot("merge-report");

  await page.click("#run-done .primary");
  await page.waitForFunction(() => document.querySelector("#model-name")?.textContent === "tale × case");
  await send(page, PROMPT);
  const merged = await reply(page);

  // Side by side: the parents say something else, the merge the same as in the chat.
  await page.click("#to-view-merge");
  await page.click("#compare-start");
  await page.waitForFunction(() => document.querySelectorAll(".column").length === 3
    && [...document.querySelectorAll(".column-status")].every((node) => node.textContent?.startsWith("12 tokens")));
  const texts = await page.$$eval(".column .text", (all) => all.map((node) => node.textContent ?? ""));
  assert.equal(texts[2], merged);
  assert.equal(new Set(texts).size, 3, JSON.stringify(texts));
});

test("a weighted sum is reported with norms and distances", async (t) => {
  const { page } = await openPage(t, "/#merge");
  await shown(page, ".curve-attention [role=slider]");
  const slerp = await recipe(page);
  const [base, other] = [...slerp.matchAll(/- model: (\S+)/g)].map(([, name]) => name);
  await edit(page, slerp, `models:\n- {model: ${base}, parameters: {weight: 3}}\n- {model: ${other}, parameters: {weight: 1}}\nmerge_method: linear\ndtype: bfloat16\n`);
  await mergeInto(page, "chat");
  assert.match(await page.$eval("#report-charts", (node) => node.textContent ?? ""), /measures no angles/);
  await page.click("#report-details summary");
  await shown(page, "#report-table td");
  const rows = await page.$$eval("#report-table tbody tr", (all) => all.map((row) => [...row.children].map((cell) => cell.textContent ?? "")));
  assert.equal(rows.length, 57);
  for (const [name, method, t, dot, branch, factors, norms = "", distances = ""] of rows) {
    assert.deepEqual([method, t, dot, branch, factors], ["linear", "", "", "", "0.750, 0.250"], name);
    assert.ok(norms.split(", ").length === 2 && norms.split(", ").every((norm) => Number(norm) > 0), `${name}: ${norms}`);
    // Three times as near to one as to the other.
    const [near = 0, far = 0] = distances.split(", ").map(Number);
    assert.ok(far > 0 && Math.abs(far - 3 * near) < 0.003, `${name}: ${distances}`);
  }
});

test("recipe and curves stay in step, both ways", async (t) => {
  const { page } = await openPage(t, "/#merge");
  await shown(page, ".curve-attention [role=slider]");
  await curveIs(page, "attention", [0, 0.5, 0.3, 0.7, 1]);
  await curveIs(page, "mlp", [1, 0.5, 0.7, 0.3, 0]);
  await curveIs(page, "rest", [0.5]);

  // Text to curve.
  await edit(page, "[0, 0.5, 0.3, 0.7, 1]", "[0.25, 0.75]");
  await curveIs(page, "attention", [0.25, 0.75]);

  // Curve to text, by keyboard: move, add, remove.
  await page.$eval(".curve-attention [role=slider]", (node) => /** @type {SVGElement} */ (node).focus());
  assert.match(await page.$eval(".curve-attention [role=slider]", (node) => node.getAttribute("aria-label") ?? ""), /^Attention, anchor 1 of 2, at layer 0$/);
  await page.keyboard.press("ArrowUp");
  await page.waitForFunction(() => /value: \[0\.3, 0\.75\]/.test(/** @type {HTMLTextAreaElement} */ (document.querySelector("#recipe-text")).value));
  await page.keyboard.press("End");
  await page.keyboard.down("Shift");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.up("Shift");
  assert.match(await recipe(page), /value: \[0\.99, 0\.75\]/);
  await page.keyboard.press("Insert");
  assert.match(await recipe(page), /value: \[0\.99, 0\.87, 0\.75\]/);
  assert.equal(await page.evaluate(() => document.activeElement?.getAttribute("aria-label")), "Attention, anchor 2 of 3, at layer 2.5");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Delete");
  assert.match(await recipe(page), /value: \[0\.99, 0\.87\]/);

  // And by pointer.
  const knob = await page.$(".curve-rest .knob");
  await knob?.evaluate((node) => node.scrollIntoView({ block: "center" }));
  const box = await knob?.boundingBox();
  assert.ok(box);
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  await page.mouse.move(x, y);
  await page.mouse.down();
  await page.mouse.move(x, y - 20, { steps: 4 });
  await page.mouse.move(x, y - 300, { steps: 4 });
  await page.mouse.up();
  assert.match(await recipe(page), /- value: 1\n/);
  await curveIs(page, "rest", [1]);

  // What curves do not show stays in the text.
  await edit(page, "dtype: bfloat16", "dtype: float32\nout_dtype: float16\ntokenizer_source: union");
  await page.waitForSelector("#recipe-text[aria-invalid=false]");
  await new Promise((resolve) => setTimeout(resolve, 400));
  await page.click(".curve-mlp .curve-head button:last-child");
  await page.waitForFunction(() => document.querySelector(".curve-mlp")?.classList.contains("follows"));
  const text = await recipe(page);
  assert.match(text, /dtype: float32\nout_dtype: float16\ntokenizer_source: union\n$/);
  assert.doesNotMatch(text, /mlp/);
  assert.deepEqual(await anchors(page, "mlp"), [1]);

  // A parent's name is the recipe's.
  await page.$eval("#parent-1", (node) => { /** @type {HTMLInputElement} */ (node).value = "https://huggingface.co/owner/other/tree/v2"; node.dispatchEvent(new Event("change")); });
  assert.match(await recipe(page), /- model: owner\/other@v2\n/);
  await page.waitForFunction(() => /whose size is not known|size is not known yet/.test(document.querySelector("#download-note")?.textContent ?? ""));

  // More than curves can show is edited as text.
  await page.click('[data-preset="passthrough"]');
  await page.waitForFunction(() => /edited as text only: its method is passthrough/.test(document.querySelector("#curves-note")?.textContent ?? ""));
  assert.equal(await page.$eval("#curves", (node) => /** @type {HTMLElement} */ (node).hidden), true);

  // The large one says what it costs before it starts.
  await page.click('[data-preset="reference"]');
  await page.waitForFunction(() => document.querySelector("#run-start")?.textContent === "Merge: download 29.0 GB");
  assert.equal(await page.$eval("#download-note", (node) => node.textContent), "This downloads about 2 × 14.5 GB, 29.0 GB in all.");
});

test("an error of the recipe is shown at once, with its place", async (t) => {
  const { page } = await openPage(t, "/#merge");
  await shown(page, ".curve-attention [role=slider]");
  await edit(page, "merge_method: slerp", "merge_method: slurp");
  await shown(page, "#recipe-error");
  assert.match(await page.$eval("#recipe-error", (node) => node.textContent ?? ""), /^line 7: merge_method: .*slurp.*slerp/);
  assert.equal(await page.$eval("#recipe-lines .bad", (node) => node.textContent), "7");
  assert.equal(await page.$eval("#run-start", (node) => node.matches(":disabled")), true);
  assert.equal(await page.$eval("#curves", (node) => /** @type {HTMLElement} */ (node).inert), true);
  await edit(page, "slurp", "slerp");
  await page.waitForSelector("#recipe-error", { hidden: true });

  // One that only the models tell has its place, too.
  await edit(page, "layer_range: [0, 6]\n      - model: ./case\n        layer_range: [0, 6]", "layer_range: [0, 7]\n      - model: ./case\n        layer_range: [0, 7]");
  await page.waitForFunction(() => document.querySelector(".curve-attention .tick:last-of-type")?.textContent === "6");
  await page.click("#to-storage");
  await page.click("#run-start");
  await shown(page, "#merge-message");
  assert.match(await page.$eval("#merge-message", (node) => node.textContent ?? ""), /The recipe cannot be used.*has 6 layers/);
  assert.equal(await page.$eval("#recipe-lines .bad", (node) => node.textContent), "3");
  assert.equal(await page.$eval("#stored", (node) => /** @type {HTMLElement} */ (node).hidden), true, "nothing is left");
});

test("a merge is saved in the browser, and loads again as the same model", async (t) => {
  const { page, screenshot } = await openPage(t, "/#merge");
  await shown(page, ".curve-attention [role=slider]");
  await greedy(page, 12);
  assert.equal(await mergeInto(page, "storage"), "Saved as “tale-x-case” in this browser’s storage");
  await shown(page, "#stored-list a, #stored-list summary");
  const names = await page.$$eval("#stored-list a", (all) => all.map((link) => /** @type {HTMLAnchorElement} */ (link).download).sort());
  for (const file of ["config.json", "mergekit_config.yml", "model.safetensors", "tokenizer.json", "README.md"]) assert.ok(names.includes(file), names.join());
  const bytes = await page.$$eval("#stored-list a", async (all) => {
    const link = /** @type {HTMLAnchorElement[]} */ (all).find(({ download }) => download === "model.safetensors");
    return link ? (await (await fetch(link.href)).blob()).size : 0;
  });
  assert.ok(bytes > 6e6, `model.safetensors: ${bytes} bytes`);
  await screenshot("merge-saved");

  // A second one does not write over the first.
  assert.equal(await mergeInto(page, "storage"), "Saved as “tale-x-case-2” in this browser’s storage");

  // The saved checkpoint and the merge itself take the same greedy tokens.
  const [saved, merged] = await page.evaluate(async (prompt) => {
    const { Engine } = await import(new URL("pkg/index.js", document.baseURI).href);
    const root = await (await navigator.storage.getDirectory()).getDirectoryHandle("merges");
    const text = /** @type {HTMLTextAreaElement} */ (document.querySelector("#recipe-text")).value;
    const models = [await root.getDirectoryHandle("tale-x-case"), { recipe: text, models: { "./tale": "./models/tale/", "./case": "./models/case/" } }];
    const replies = [];
    for (const model of models) {
      const engine = await Engine.load(model);
      const { choices: [choice] } = await engine.chat.completions.create({ messages: [{ role: "user", content: prompt }], temperature: 0, max_tokens: 16, logprobs: true });
      replies.push({ text: choice.message.content, logprobs: choice.logprobs.content });
      await engine.dispose();
    }
    return replies;
  }, PROMPT);
  assert.ok(saved && merged);
  assert.deepEqual(saved, merged);

  // In the chat, and after the page was opened anew.
  await page.reload();
  await page.waitForSelector("#stored-list button");
  await greedy(page, 12);
  // Not by pointer: the list may be drawn anew in between.
  await page.$eval("#stored-list button", (found) => /** @type {HTMLElement} */ (found).click());
  await page.waitForFunction(() => document.querySelector("#model-name")?.textContent === "tale-x-case");
  await send(page, PROMPT);
  const said = await reply(page);
  assert.ok(said.length > 5 && saved.text.startsWith(said), `${said} / ${saved.text}`);

  // Deleted is deleted.
  await page.click("#to-view-merge");
  for (let left = 2; left > 0; left -= 1) {
    await page.waitForFunction((left) => document.querySelectorAll("#stored-list .stored-item").length === left, {}, left);
    await page.$eval("#stored-list .quiet", (found) => /** @type {HTMLElement} */ (found).click());
  }
  await page.waitForSelector("#stored", { hidden: true });
});

test("a merge goes into a picked folder, and stops without leaving anything", async (t) => {
  const { page } = await openPage(t, "/pages/blank.html");
  // No test can answer the browser's own dialog: the folder behind it is one of the origin's storage.
  await page.evaluateOnNewDocument(() => {
    Object.assign(globalThis, { showDirectoryPicker: async () => (await navigator.storage.getDirectory()).getDirectoryHandle("picked", { create: true }) });
  });
  await page.goto(`${new URL(page.url()).origin}/#merge`);
  await shown(page, ".curve-attention [role=slider]");
  assert.equal(await mergeInto(page, "folder"), "Saved as the folder “picked/tale-x-case”");
  const list = () => page.evaluate(async () => {
    const picked = await (await navigator.storage.getDirectory()).getDirectoryHandle("picked");
    const names = [];
    for await (const name of /** @type {any} */ (picked).keys()) names.push(name);
    return names;
  });
  assert.deepEqual(await list(), ["tale-x-case"]);
  // Stopped at the first tensor.
  await page.evaluate(() => {
    new MutationObserver((_, observer) => {
      observer.disconnect();
      document.getElementById("run-stop")?.click();
    }).observe(/** @type {Node} */ (document.querySelector("#run-tensor")), { childList: true });
  });
  await page.click("#run-start");
  await page.waitForFunction(() => document.querySelector("#run-announcer")?.textContent === "The merge was stopped.");
  assert.equal(await page.$eval("#merge-message", (node) => node.textContent), "StoppedNothing of it was kept.");
  assert.deepEqual(await list(), ["tale-x-case"]);
  assert.equal(await page.$eval("#run-start", (node) => node.matches(":enabled:not([hidden])")), true);
});

test("a merge that does not fit the browser's storage is refused before it is written", async (t) => {
  const { page } = await openPage(t, "/#merge");
  await shown(page, ".curve-attention [role=slider]");
  await page.evaluate(() => { navigator.storage.estimate = async () => ({ quota: 5_000_000, usage: 1_000_000 }); });
  await page.click("#to-storage");
  await page.click("#run-start");
  await shown(page, "#merge-message");
  assert.match(await page.$eval("#merge-message", (node) => node.textContent ?? ""), /^No room left.*needs 6\.3 MB.*only 4\.0 MB left/);
  assert.equal(await page.$eval("#stored", (node) => /** @type {HTMLElement} */ (node).hidden), true, "nothing is left");
});

test("models that are not the page's own are compared one after the other", async (t) => {
  const { page } = await openPage(t, "/#merge");
  await shown(page, ".curve-attention [role=slider]");
  for (const [i, name] of ["./models/tale/", "./models/case/"].entries()) {
    await page.$eval(`#parent-${i}`, (node, name) => {
      /** @type {HTMLInputElement} */ (node).value = name;
      node.dispatchEvent(new Event("change"));
    }, name);
    await page.waitForFunction((name) => /** @type {HTMLTextAreaElement} */ (document.querySelector("#recipe-text")).value.includes(`model: ${name}\n`), {}, name);
  }
  await page.waitForFunction(() => document.querySelector("#compare-note")?.textContent?.startsWith("One after the other"));
  await greedy(page, 8);
  await mergeInto(page, "chat");
  await page.click("#compare-start");
  await page.waitForFunction(() => document.querySelectorAll(".column").length === 3
    && [...document.querySelectorAll(".column-status")].every((node) => node.textContent?.startsWith("8 tokens")));
  const texts = await page.$$eval(".column .text", (all) => all.map((node) => node.textContent ?? ""));
  assert.equal(new Set(texts).size, 3, JSON.stringify(texts));
  assert.equal(await page.$eval("#model-name", (node) => node.textContent), "none", "the chat's model made room");
});

test("without WebGPU a merge is saved all the same, and chatted with on the processor", async (t) => {
  const { page } = await openPage(t, "/pages/blank.html");
  await page.evaluateOnNewDocument(() => {
    delete (/** @type {any} */ (Navigator.prototype).gpu);
    const Original = globalThis.Worker;
    globalThis.Worker = class extends Original {
      /** @param {string | URL} script @param {WorkerOptions} [options] */
      constructor(script, options) {
        const blob = (/** @type {string} */ code) => URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
        super(blob(`import "${blob("delete WorkerNavigator.prototype.gpu;")}"; import "${script}";`), options);
      }
    };
  });
  await page.goto(`${new URL(page.url()).origin}/#merge`);
  await shown(page, "#no-webgpu");
  await shown(page, ".curve-attention [role=slider]");
  assert.match(await mergeInto(page, "storage"), /^Saved as/);
  await mergeInto(page, "chat");
  assert.match(await page.$eval("#status-adapter", (node) => node.textContent ?? ""), /CPU/);
});

test("the slider merges again, and the conversation goes on", async (t) => {
  const { page, screenshot } = await openPage(t, "/");
  await page.waitForFunction(() => document.querySelector("#model-name")?.textContent === "tale");
  assert.equal(await page.$eval("#blend", (node) => /** @type {HTMLElement} */ (node).hidden), true);
  await greedy(page, 16);
  await send(page, PROMPT);
  const none = await reply(page);
  await page.click('[data-name="tale × case"]');
  await page.waitForFunction(() => document.querySelector("#model-name")?.textContent === "tale × case");
  await shown(page, "#blend");
  await send(page, PROMPT);
  const half = await reply(page);
  const slide = (/** @type {number[]} */ ...values) => page.$eval("#blend-t", (node, values) => {
    const slider = /** @type {HTMLInputElement} */ (node);
    for (const value of values) {
      slider.value = String(value);
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    }
  }, values);
  await slide(1);
  const all = await reply(page, half);
  await screenshot("blend");
  // By keyboard, through many values: the last one counts, and no merge but the last is heard of.
  await page.focus("#blend-t");
  await page.keyboard.press("Home");
  await slide(0.2, 0.4, 0.9);
  await new Promise((resolve) => setTimeout(resolve, 150));
  await slide(0);
  // At its ends the blend is one of the parents.
  await replyIs(page, none);
  assert.equal(new Set([half, all, none]).size, 3);
  assert.equal(await page.$eval("#blend-value", (node) => node.textContent), "t 0.00");

  await page.click('[data-name="case"]');
  await page.waitForFunction(() => document.querySelector("#model-name")?.textContent === "case");
  assert.equal(await page.$eval("#blend", (node) => /** @type {HTMLElement} */ (node).hidden), true);
  await send(page, PROMPT);
  assert.equal(await reply(page), all);
});

test("pictures of the merge view, which fits every screen", async (t) => {
  const { page, screenshot } = await openPage(t, "/#merge", { width: 1280, height: 900 });
  await shown(page, ".curve-attention [role=slider]");
  await mergeInto(page, "storage");
  await page.waitForSelector("#stored-list summary");
  await page.click("#stored-list summary");
  for (const [name, width, height] of /** @type {[string, number, number][]} */ ([["desktop", 1280, 2300], ["phone", 390, 844], ["narrow", 320, 640]])) {
    await page.setViewport({ width, height });
    await new Promise((resolve) => setTimeout(resolve, 200));
    for (const scheme of ["light", "dark"]) {
      if (browserName() === "firefox") {
        if (scheme === "light") await screenshot(`merge-${name}`);
        continue;
      }
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await screenshot(`merge-${name}-${scheme}`);
    }
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0, name);
  }
});
