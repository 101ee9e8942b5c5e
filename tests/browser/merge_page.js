// What a visitor does in the merge view.

import assert from "node:assert/strict";

/** @typedef {import("puppeteer-core").Page} Page */

export const PROMPT = "The old man opened the door and";

/**
 * Waits until the recipe was read, and shows curves (or an error, or text only).
 * @param {Page} page
 * @param {string} selector
 */
export const shown = (page, selector) => page.waitForSelector(selector, { visible: true });

/** @param {Page} page */
export const recipe = (page) => page.$eval("#recipe-text", (node) => /** @type {HTMLTextAreaElement} */ (node).value);

/**
 * Replaces a part of the recipe as typing does.
 * @param {Page} page
 * @param {string} from
 * @param {string} to
 */
export async function edit(page, from, to) {
  await page.$eval("#recipe-text", (node, from, to) => {
    const area = /** @type {HTMLTextAreaElement} */ (node);
    const start = area.value.indexOf(from);
    if (start < 0) throw new Error(`no ${from} in ${area.value}`);
    area.focus();
    area.setRangeText(to, start, start + from.length, "end");
    area.dispatchEvent(new InputEvent("input", { bubbles: true }));
  }, from, to);
}

/**
 * Values of a curve's anchors, as a screen reader hears them.
 * @param {Page} page
 * @param {"attention" | "mlp" | "rest"} curve
 */
export const anchors = (page, curve) => page.$$eval(`.curve-${curve} [role=slider]`, (all) => all.map((each) => Number(each.getAttribute("aria-valuenow"))));

/**
 * Waits until a curve has these values.
 * @param {Page} page
 * @param {string} curve
 * @param {number[]} values
 */
export const curveIs = (page, curve, values) => page.waitForFunction(
  (curve, values) => [...document.querySelectorAll(`.curve-${curve} [role=slider]`)].map((each) => each.getAttribute("aria-valuenow")).join() === values,
  {}, curve, values.join(),
);

/**
 * Starts a merge and waits for its end.
 * @param {Page} page
 * @param {"chat" | "folder" | "download" | "storage"} destination
 */
export async function mergeInto(page, destination) {
  await page.click(`#to-${destination}`);
  await page.waitForSelector("#run-start:enabled");
  await page.click("#run-start");
  await page.waitForSelector("#run-done:not([hidden]), #merge-message:not([hidden])");
  assert.equal(await page.$eval("#merge-message", (node) => node.textContent), "");
  return page.$eval("#run-done h3", (node) => node.textContent ?? "");
}

/** Sampling that says the same every time. @param {Page} page @param {number} tokens */
export const greedy = (page, tokens) => page.evaluate((tokens) => {
  for (const [id, value] of [["sampling-temperature", "0"], ["sampling-max_tokens", String(tokens)]]) {
    const input = /** @type {HTMLInputElement} */ (document.getElementById(String(id)));
    input.value = String(value);
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }
}, tokens);

/**
 * The last reply of the chat, once it is complete and `differs`.
 * @param {Page} page
 * @param {string} [differs]
 */
export async function reply(page, differs = "") {
  await page.waitForFunction((differs) => {
    const text = document.querySelector("#log .turn.assistant:last-child .text")?.textContent ?? "";
    const isDone = document.querySelector("#log .turn-foot") && !document.querySelector(".running");
    return isDone && text !== "" && text !== differs;
  }, { polling: 50 }, differs);
  return page.$eval("#log .turn.assistant:last-child .text", (node) => node.textContent ?? "");
}

/**
 * Waits until the last reply is this one, whatever others come before it.
 * @param {Page} page
 * @param {string} text
 */
export const replyIs = (page, text) => page.waitForFunction((text) => (
  document.querySelector("#log .turn.assistant:last-child .text")?.textContent === text && document.querySelector("#log .turn-foot") && !document.querySelector(".running")
), { polling: 50 }, text);

/** @param {Page} page @param {string} text */
export async function send(page, text) {
  await page.waitForSelector("#prompt:enabled", { visible: true });
  await page.focus("#prompt");
  await page.keyboard.type(text);
  await page.keyboard.press("Enter");
}
