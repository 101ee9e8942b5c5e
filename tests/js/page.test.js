import assert from "node:assert/strict";
import { test } from "node:test";

import { Rate, formatBytes, formatCount, formatDuration, formatSpeed, fromHubPage, shortName, waitingLine, weightsLine } from "../../www/panels/format.js";

test("numbers for people", () => {
  assert.deepEqual([0, 999, 12_345, 6_300_000, 75_000_000, 7_513_000_000, 26_100_000_000].map(formatBytes),
    ["0 KB", "1 KB", "12 KB", "6.3 MB", "75 MB", "7.51 GB", "26.1 GB"]);
  assert.deepEqual([0, 1.2, 89, 91, 3600, 9000].map(formatDuration), ["1 s", "2 s", "89 s", "2 min", "60 min", "2.5 h"]);
  assert.deepEqual([0.44, 9.94, 142.3].map(formatSpeed), ["0.4 tokens/s", "9.9 tokens/s", "142 tokens/s"]);
});

test("counts for people", () => {
  assert.deepEqual([7, 999_999, 3_148_224, 134_515_008, 7_241_732_096, 70e9].map(formatCount),
    ["7", "999999", "3.1 million", "135 million", "7.2 billion", "70 billion"]);
});

test("a rate follows the last seconds only", () => {
  const rate = new Rate(1000);
  assert.equal(rate.add(0, 0), 0);
  assert.equal(rate.add(5, 10), 0, "too early to tell");
  assert.equal(rate.add(100, 1000), 100);
  for (let at = 1100; at <= 4000; at += 100) rate.add(100, at);
  assert.equal(rate.add(100, 4100), 0, "nothing came for seconds");
});

test("the line of a load", () => {
  assert.equal(weightsLine(2e9, 7e9, 1e8), "2.00 GB of 7.00 GB, 100 MB/s, 50 s left");
  assert.equal(weightsLine(2e9, 0, 0), "2.00 GB");
  assert.equal(weightsLine(7e9, 7e9, 1e8), "7.00 GB of 7.00 GB, 100 MB/s");
});

test("a model's short name", () => {
  for (const [name, short] of [["./models/tale/", "tale"], ["https://cdn.example/a/b?sig=/x", "b"], ["owner/name@v1", "owner/name@v1"], ["/m", "m"]]) {
    assert.equal(shortName(name ?? ""), short);
  }
});

test("the line of a load that waits", () => {
  const waiting = { ms: 2400, attempt: 2, reason: "https://host/x: the server answered 503; try again later" };
  const why = "Waiting 3 s to try again (attempt 2): https://host/x: the server answered 503; try again later";
  assert.equal(waitingLine("", waiting), why);
  assert.equal(waitingLine(weightsLine(2e9, 7e9, 0), waiting), `2.00 GB of 7.00 GB. ${why}`);
});

test("the address of a model's page means its hub name", () => {
  const hub = "https://hub.example";
  const cases = {
    "https://hub.example/owner/name": "owner/name",
    "https://hub.example/owner/name/": "owner/name",
    "https://hub.example/owner/name/tree/main": "owner/name@main",
    "https://hub.example/owner/name/tree/refs%2Fpr%2F1?x=1": "owner/name@refs/pr/1",
    "https://hub.example/owner/name/resolve/main/": "https://hub.example/owner/name/resolve/main/",
    "https://other.example/owner/name": "https://other.example/owner/name",
    "owner/name": "owner/name",
  };
  for (const [text, expected] of Object.entries(cases)) assert.equal(fromHubPage(text, hub), expected);
});
