import assert from "node:assert/strict";
import { test } from "node:test";

import { BiseError, toPlain } from "../../www/bise/errors.js";
import { checkLoadOptions, completeModels, mergeSource, resolveModel } from "../../www/bise/model.js";
import { nearest } from "../../www/bise/options.js";

const PAGE = "https://site.example/a/page.html";
const refused = (/** @type {any} */ message) => (/** @type {unknown} */ error) => {
  assert.ok(error instanceof BiseError && error.code === "bad-request", String(error));
  assert.match(error.message, message);
  return true;
};
/** A source of any kind. @type {(model: unknown, options?: object) => any} */
const source = (model, options = {}) => resolveModel(model, options, PAGE).source;
/** @type {(model: unknown, options?: object) => string} */
const base = (model, options) => source(model, options).base;

test("hub ids", () => {
  assert.equal(base("owner/name"), "https://huggingface.co/owner/name/resolve/main/");
  assert.equal(base("owner/na.me-7B_x@v1.0"), "https://huggingface.co/owner/na.me-7B_x/resolve/v1.0/");
  assert.equal(base("owner/name@refs/pr/3"), "https://huggingface.co/owner/name/resolve/refs%2Fpr%2F3/");
  assert.equal(base("owner/name", { hubUrl: "http://localhost:8000/hub/" }), "http://localhost:8000/hub/owner/name/resolve/main/");
  assert.equal(base("owner/name", { hubUrl: "./hub" }), "https://site.example/a/hub/owner/name/resolve/main/");
});

test("URLs of directories, told apart by how they begin or end", () => {
  assert.equal(base("./models/tale/"), "https://site.example/a/models/tale/");
  assert.equal(base("../models/tale"), "https://site.example/models/tale/");
  assert.equal(base("/models/tale"), "https://site.example/models/tale/");
  assert.equal(base("models/"), "https://site.example/a/models/");
  assert.equal(base("owner/name/"), "https://site.example/a/owner/name/");
  assert.equal(base("HTTPS://cdn.example/m#part"), "https://cdn.example/m/");
});

test("a query stays, behind the slash", () => {
  assert.equal(base("https://cdn.example/m?sig=a%2Fb&x=1"), "https://cdn.example/m/?sig=a%2Fb&x=1");
});

test("what may be secret in a URL is in no name and no message", () => {
  assert.equal(resolveModel("https://me:word@cdn.example/m/?sig=secret", {}, PAGE).name, "https://cdn.example/m/");
  assert.throws(() => source("https://me:word@cdn.example/m/config.json?sig=secret"), (error) => error instanceof Error && !/secret|word/.test(error.message));
});

test("patience goes with everything that is fetched", () => {
  const network = { attempts: 3 };
  assert.deepEqual(source("owner/name", { network }).network, network);
  assert.equal("network" in source("owner/name"), false);
  const merge = mergeSource("models: []", [["a", "./a/"]], { network, headers: { Authorization: "Bearer x" } }, PAGE);
  assert.deepEqual(/** @type {any} */ (merge.models.get("a")).network, network);
  const completed = completeModels(merge, ["a", "owner/b", "https://host.example/c/"]).models;
  for (const each of completed.values()) assert.deepEqual(/** @type {any} */ (each).network, network);
  assert.deepEqual(checkLoadOptions({ network: { attempts: 1, backoffMs: 0, stallMs: 5 } }).network, { attempts: 1, backoffMs: 0, stallMs: 5 });
  assert.throws(() => checkLoadOptions({ network: { stallMs: 1.5 } }), refused(/network\.stallMs must be a whole number/));
  assert.throws(() => checkLoadOptions({ network: { retries: 3 } }), refused(/network: there is no "retries"/));
  assert.throws(() => checkLoadOptions({ network: "none" }), refused(/network must be an object/));
});

test("tuning is left to the engine, or said", () => {
  assert.deepEqual(checkLoadOptions({}).engine, {});
  assert.deepEqual(checkLoadOptions({ autotune: false }).engine, { autotune: false });
  assert.throws(() => checkLoadOptions({ autotune: "off" }), refused(/autotune must be/));
  assert.throws(() => checkLoadOptions({ autotune: true, backend: "cpu" }), refused(/^autotune: it times graphics adapters/));
  assert.deepEqual(checkLoadOptions({ autotune: false, backend: "cpu" }).engine, { autotune: false, backend: "cpu" });
});

test("headers go with what is fetched, and with nothing else", () => {
  const headers = { Authorization: "Bearer x" };
  assert.deepEqual(source("a/b", { headers }).headers, headers);
  assert.equal("headers" in resolveModel("a/b", {}, PAGE).source, false);
  assert.throws(() => resolveModel([new File([], "config.json")], { headers }, PAGE), refused(/headers/));
});

test("an option that would do nothing is refused", () => {
  const files = [new File([], "config.json")];
  const folder = { kind: "directory", name: "m", getFileHandle: () => {} };
  for (const model of ["https://elsewhere.example/m/", "./models/tale/", files, folder]) {
    assert.throws(() => source(model, { hubUrl: "https://hub.example" }), refused(/^hubUrl: /));
  }
  for (const model of [files, folder]) assert.throws(() => source(model, { network: { attempts: 1 } }), refused(/^network: /));
  // In a recipe each is for those of the models that it concerns, and none is refused for the others.
  const merge = mergeSource("the recipe", [["own", "https://own.example/m/"], ["here", files], ["placed", "c/d"]], { hubUrl: "https://hub.example", network: { attempts: 1 } }, PAGE);
  const { models } = completeModels(merge, ["own", "here", "placed", "owner/name", "./there"]);
  assert.deepEqual([...models.values()].map((each) => (each.kind === "http" ? [each.base, each.network] : each.kind)), [
    ["https://own.example/m/", { attempts: 1 }], "files", ["https://hub.example/c/d/resolve/main/", { attempts: 1 }],
    ["https://hub.example/owner/name/resolve/main/", { attempts: 1 }], ["https://site.example/a/there/", { attempts: 1 }],
  ]);
});

test("a token goes to the hub alone, and shows nowhere", () => {
  const token = "hf_secret";
  const hub = source("a/b@v1", { token, headers: { authorization: "Bearer other", "X-Own": "1" }, hubUrl: "https://hub.example/" });
  assert.deepEqual(hub, {
    kind: "http", base: "https://hub.example/a/b/resolve/v1/", listing: "https://hub.example/api/models/a/b/revision/v1",
    headers: { "X-Own": "1", Authorization: "Bearer hf_secret" },
  });
  for (const model of ["https://elsewhere.example/m/", "./models/tale/", "owner/name/", [new File([], "config.json")]]) {
    assert.throws(() => source(model, { token }), refused(/token/));
  }
  // Recipes: for the hub's models, whether the caller placed them or the recipe named them.
  const merge = mergeSource("the recipe", [["own", "https://own.example/m/"], ["placed", "c/d"], ["here", [new File([], "x")]]], { token }, PAGE);
  const { models } = completeModels(merge, ["owner/name", "https://elsewhere.example/m", "./here", "own", "placed", "here"]);
  const sent = Object.fromEntries([...models].map(([name, each]) => [name, each.kind === "http" ? each.headers?.Authorization : undefined]));
  assert.deepEqual(sent, {
    "owner/name": "Bearer hf_secret", "https://elsewhere.example/m": undefined, "./here": undefined, own: undefined,
    placed: "Bearer hf_secret", here: undefined,
  });
  for (const bad of ["two words", "line\nbreak", "", 7, "ä"]) {
    assert.throws(() => checkLoadOptions({ token: bad }), (/** @type {any} */ error) => {
      assert.match(error.message, /token must be/);
      assert.ok(bad === "" || !error.message.includes(String(bad)), error.message);
      return error.code === "bad-request";
    });
  }
  assert.equal(checkLoadOptions({ token }).token, token);
});

test("what is wrong with a header is said without its value", () => {
  for (const headers of [{ Authorization: "Bearer secret\nx" }, { "X Y": "secret" }, { a: ["secret"] }]) {
    assert.throws(() => checkLoadOptions({ headers }), (/** @type {any} */ error) => error.code === "bad-request" && !error.message.includes("secret"));
  }
});

test("files and folders", () => {
  const named = (/** @type {string} */ name, path = "") => Object.defineProperty(new File(["x"], name), "webkitRelativePath", { value: path });
  const picked = source([named("config.json"), named("model.safetensors")]);
  assert.deepEqual([...picked.files.keys()], ["config.json", "model.safetensors"]);
  const folder = source([named("config.json", "m/config.json"), named("x", "m/sub/x")]);
  assert.deepEqual([...folder.files.keys()], ["config.json", "sub/x"]);
  const handle = { kind: "directory", name: "m", getFileHandle: () => {} };
  assert.deepEqual(resolveModel(handle, {}, PAGE), { source: { kind: "directory", handle }, name: "m" });
  assert.throws(() => resolveModel([named("a"), named("a")], {}, PAGE), refused(/two of the files/));
  assert.throws(() => resolveModel([], {}, PAGE), refused(/empty/));
  assert.throws(() => resolveModel(["config.json"], {}, PAGE), refused(/Files only/));
});

test("what is no model is refused", () => {
  for (const [model, message] of [
    ["name", /neither/], ["", /neither/], ["a/b/c", /neither/], ["a b/c", /neither/], ["ftp://x/y", /neither/],
    ["a/b@", /neither/], ["a/b?x=1", /neither/], ["https://", /not a URL/],
    ["https://x.example/model.safetensors", /directory it lies in/],
    [{ recipe: 7 }, /text of a mergekit recipe/], [{ recipe: "x", models: 7 }, /from names in the recipe/], [{ recipe: "x", model: {} }, /nearest is "models"/], [undefined, /undefined/], [7, /not 7/], [{}, /an object/],
  ]) assert.throws(() => resolveModel(model, {}, PAGE), refused(message), String(model));
});

test("load options", () => {
  assert.deepEqual(checkLoadOptions(undefined), { engine: {} });
  const given = { backend: "webgpu", weights: "f8", contextLength: 9, kvCache: "f8", cache: false };
  assert.deepEqual(checkLoadOptions(given).engine, { backend: "webgpu", weights: "f8", contextLength: 9, kvCache: "f8" });
  for (const [options, message] of [
    [{ backend: "cuda" }, /"auto" or "webgpu" or "cpu"/], [{ weights: "f16" }, /"f8" or "i8" or "checkpoint"/], [{ kvCache: "i8" }, /"f16" or "f8"/],
    [{ contextLength: "9" }, /contextLength/], [{ cache: 1 }, /true or false/], [{ integrity: "x" }, /object of file names/], [{ integrity: { a: "12" } }, /64 hexadecimal/], [{ onProgress: 1 }, /a function/],
    [{ signal: 1 }, /AbortSignal/], [{ weight: "f8" }, /nearest is "weights"/], [{ context_length: 9 }, /nearest is "contextLength"/],
    [{ headers: { a: 1 } }, /headers\["a"\]/], [{ headers: { "a b": "x" } }, /"a b"/], [{ headers: { a: "x\ny" } }, /HTTP/],
    ...["Bearer x", true, 7, [["a", "b"]], new Map([["a", "b"]]), () => {}].map((headers) => [{ headers }, /headers must be an object .* or Headers/]),
    ["f8", /must be an object/], [[], /must be an object/],
  ]) assert.throws(() => checkLoadOptions(options), refused(message), JSON.stringify(options));
});

test("headers may be Headers", () => {
  assert.deepEqual(checkLoadOptions({ headers: new Headers({ Authorization: "Bearer x" }) }).headers, { authorization: "Bearer x" });
  assert.deepEqual(checkLoadOptions({ headers: { Authorization: "Bearer x" } }).headers, { Authorization: "Bearer x" });
});

test("the nearest name", () => {
  const known = ["temperature", "top_p", "top_k"];
  assert.equal(nearest("temp", known), "temperature");
  assert.equal(nearest("Temperature", known), "temperature");
  assert.equal(nearest("temprature", known), "temperature");
  assert.equal(nearest("topK", known), "top_k");
});

test("errors cross with a known code or the fallback", () => {
  assert.deepEqual(toPlain(new BiseError("quota", "full"), "network"), { code: "quota", message: "full" });
  assert.deepEqual(toPlain(new TypeError("odd"), "network"), { code: "network", message: "odd" });
  assert.deepEqual(toPlain({ code: "ENOENT", message: "m" }, "network"), { code: "network", message: "m" });
  assert.deepEqual(toPlain("text", "device-lost"), { code: "device-lost", message: "text" });
  assert.deepEqual(toPlain(null, "device-lost"), { code: "device-lost", message: "null" });
});

test("what the caller sends to the hub goes to no address in a recipe", () => {
  const headers = { Authorization: "Bearer secret" };
  const source = mergeSource("the recipe", [["own", "https://own.example/m/"]], { headers }, "https://page.example/");
  const names = ["owner/name", "https://elsewhere.example/m", "//elsewhere.example/m", "./here", "own"];
  const { models } = completeModels(source, names);
  const sent = Object.fromEntries([...models].map(([name, each]) => [name, each.kind === "http" && each.headers !== undefined]));
  assert.deepEqual(sent, {
    "owner/name": true, "https://elsewhere.example/m": false, "//elsewhere.example/m": false, "./here": false, own: true,
  });
  assert.throws(() => completeModels(source, ["owner/name"]), { code: "bad-request", message: /names no "own"/ });
});
