// The checkpoints that the test server computes: their files, and bytes as Python and Rust make them too.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";
import { startServer } from "../browser/server.js";
import { computeCheckpoint, parametersOf } from "../browser/synthetic.js";

const config = JSON.parse(readFileSync(new URL("../fixtures/synthetic/mini.json", import.meta.url), "utf8"));
const GIB = 2 ** 30;

/**
 * @param {import("../browser/synthetic.js").ComputedFile | undefined} file
 * @param {number} [begin]
 * @param {number} [end]
 */
const bytesOf = (file, begin = 0, end = file?.size ?? 0) => Buffer.concat([...(file?.read(begin, end) ?? [])]);

/**
 * A shard's header, and where its data starts.
 * @param {import("../browser/synthetic.js").ComputedFile | undefined} file
 */
function headerOf(file) {
  const length = Number(bytesOf(file, 0, 8).readBigUInt64LE());
  return { header: JSON.parse(String(bytesOf(file, 8, 8 + length))), start: 8 + length };
}

test("its shards are sound, and all there is lies in one of them", () => {
  for (const layout of /** @type {const} */ (["fp8", "bf16"])) {
    const files = computeCheckpoint({ config, layout, shardBytes: 8.3e6 });
    const index = JSON.parse(String(bytesOf(files.get("model.safetensors.index.json"))));
    let parameters = 0;
    let total = 0;
    for (const name of new Set(Object.values(index.weight_map))) {
      const file = files.get(name);
      const { header, start } = headerOf(file);
      assert.equal(start % 8, 0);
      let at = 0;
      delete header.__metadata__;
      for (const [tensor, { shape, dtype, data_offsets: [begin, end] }] of Object.entries(header)) {
        const elements = shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b);
        assert.equal(begin, at);
        assert.equal(end - begin, elements * (dtype === "BF16" ? 2 : 1));
        assert.equal(index.weight_map[tensor], name);
        if (!tensor.endsWith("_scale")) parameters += elements;
        at = end;
      }
      assert.equal(file?.size, start + at);
      assert.equal(bytesOf(file).length, file?.size);
      total += at;
    }
    assert.deepEqual([parameters, total], [parametersOf(config), index.metadata.total_size]);
  }
});

test("any range is the same bytes, and they are those of the definition", async () => {
  const files = computeCheckpoint({ config, layout: "fp8" });
  const file = files.get("model.safetensors");
  const whole = bytesOf(file);
  const { header, start } = headerOf(file);
  const tensor = (/** @type {string} */ name, /** @type {number} */ at, /** @type {number} */ count) => {
    const begin = start + header[name].data_offsets[0] + at;
    return whole.subarray(begin, begin + count).toString("hex");
  };
  // As tests/seven_billion_reference.py has them.
  assert.equal(tensor("model.layers.1.mlp.down_proj.weight", 3 * 352, 12), "9e923ce0db2ee745bb05ab02");
  assert.equal(tensor("lm_head.weight", 32_000 * 256 - 12, 12), "9b3dcabde2bdf43d42bd89bd");
  assert.equal(tensor("model.layers.1.mlp.down_proj.weight_scale", 0, 12), "1d3a393a343a3b3a063a053a");
  assert.equal(tensor("model.norm.weight", 0, 12), "493f323f7c3f6d3f543f413f");
  const codes = whole.subarray(start + header["model.layers.1.mlp.down_proj.weight"].data_offsets[0]).subarray(0, 128 * 352);
  assert.equal(codes.filter((code) => (code & 0x7f) === 0x7f).length, 0, "no NaN");
  assert.equal(new Set(codes).size, 254, "every other code");

  const server = await startServer({ root: "/nonexistent", computed: { "/m/": files } });
  try {
    for (const [begin, end] of [[0, 9], [start - 3, start + 5], [1_000_001, 3_500_003], [whole.length - 7, whole.length]]) {
      assert.ok(begin !== undefined && end !== undefined);
      const answer = await fetch(`${server.url}/m/model.safetensors`, { headers: { Range: `bytes=${begin}-${end - 1}` } });
      assert.deepEqual([answer.status, answer.headers.get("content-range"), answer.headers.get("cache-control")], [206, `bytes ${begin}-${end - 1}/${whole.length}`, "no-store"]);
      assert.ok(Buffer.from(await answer.arrayBuffer()).equals(whole.subarray(begin, end)));
    }
    assert.deepEqual(await (await fetch(`${server.url}/m/config.json`)).json(), { ...config, quantization_config: JSON.parse(String(bytesOf(files.get("config.json")))).quantization_config });
    assert.equal((await fetch(`${server.url}/m/none`)).status, 404);
  } finally {
    await server.close();
  }
});

test("what lies behind a filler is the same", () => {
  const [plain, filled] = [0, 4 * GIB + 1024].map((fillerBytes) => computeCheckpoint({ config, layout: "bf16", fillerBytes }).get("model.safetensors"));
  assert.ok((filled?.size ?? 0) > 4 * GIB);
  const [near, far] = [headerOf(plain), headerOf(filled)];
  for (const name of ["lm_head.weight", "model.norm.weight"]) {
    const [begin, end] = near.header[name].data_offsets;
    const [farBegin, farEnd] = far.header[name].data_offsets;
    assert.deepEqual([farBegin, farEnd], [begin + 4 * GIB + 1024, end + 4 * GIB + 1024]);
    const bytes = bytesOf(filled, far.start + farBegin + 1, far.start + farEnd);
    assert.ok(bytes.equals(bytesOf(plain, near.start + begin + 1, near.start + end)));
  }
});
