/** build.sh, as far as it could do harm. */

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const TOP = fileURLToPath(new URL("../../", import.meta.url));

test("a site is never written over the repository or a stranger's files", (t) => {
  // A copy: a site that was written all the same must not harm this one.
  const above = mkdtempSync(join(tmpdir(), "bise-build-"));
  t.after(() => rmSync(above, { recursive: true }));
  const top = join(above, "bise");
  for (const folder of ["pkg/wasm", "src/web", "tests", "www", ".git", "target"]) mkdirSync(join(top, folder), { recursive: true });
  cpSync(join(TOP, "build.sh"), join(top, "build.sh"));
  for (const file of ["pkg/README.md", "pkg/wasm/bise_bg.wasm", "www/index.html", "target/notes"]) writeFileSync(join(top, file), "precious");
  cpSync(top, join(above, "another clone"), { recursive: true });
  symlinkSync(join(top, "pkg"), join(above, "link"));
  // Nothing is built here: what gets as far as that is not refused.
  mkdirSync(join(above, "bin"));
  for (const tool of ["cc", "cargo", "rustc", "rustup"]) writeFileSync(join(above, "bin", tool), "#!/bin/sh\necho the build began\nexit 1\n", { mode: 0o755 });
  const env = { ...process.env, PATH: `${join(above, "bin")}:${process.env.PATH}` };
  const site = (/** @type {string} */ dir) => spawnSync("bash", ["build.sh", "site", dir], { cwd: top, env, encoding: "utf8" });

  const ours = [".", "..", "/", top, above, "pkg", "pkg/new", "pkg/wasm", "src/web", "tests", "www", ".git/site",
    "target/../pkg", "../link", "../link/new", "none/../pkg"];
  for (const dir of [...ours, "target", "../another clone"]) {
    const { status, stdout, stderr } = site(dir);
    assert.deepEqual([status, stdout], [1, ""], dir);
    assert.match(stderr, /^error: .*(would overwrite|holds no bise site|no such folder to go up from)/, dir);
    assert.ok(stderr.includes(dir), dir);
    assert.ok(existsSync(join(top, "pkg/README.md")) && !existsSync(join(top, "none")), dir);
  }
  for (const dir of ["target/site", "site", "../site", "srcs"]) assert.match(site(dir).stdout, /the build began/, dir);
});

test("the stages run whole, whatever the caller's environment leaves out", (t) => {
  const top = mkdtempSync(join(tmpdir(), "bise-build-"));
  t.after(() => rmSync(top, { recursive: true }));
  for (const folder of ["bin", "tests"]) mkdirSync(join(top, folder));
  for (const file of ["build.sh", "tests/stages.sh"]) cpSync(join(TOP, file), join(top, file));
  writeFileSync(join(top, "bin/cargo"), "#!/bin/sh\nenv | grep ^BISE\necho cargo $*\n", { mode: 0o755 });
  const left = { BISE_NO_GPU: "1", BISE_NO_SMOLLM2: "1", BISE_LIMITS: "default", BISE_ADAPTER: "none" };
  const env = { ...process.env, ...left, PATH: `${join(top, "bin")}:${process.env.PATH}` };
  const { stdout } = spawnSync("bash", ["build.sh", "test", "fmt"], { cwd: top, env, encoding: "utf8" });
  assert.match(stdout, /cargo fmt --check/);
  assert.doesNotMatch(stdout, /BISE_/);
});

test("every test target runs on lavapipe, once", (t) => {
  const top = mkdtempSync(join(tmpdir(), "bise-build-"));
  t.after(() => rmSync(top, { recursive: true }));
  for (const folder of ["bin", "target/models/smollm2-135m"]) mkdirSync(join(top, folder), { recursive: true });
  for (const file of ["build.sh", "tests"]) cpSync(join(TOP, file), join(top, file), { recursive: true, filter: (path) => !path.includes("node_modules") });
  // What one lane says is in the log; either may fail the stage.
  writeFileSync(join(top, "bin/cargo"), '#!/bin/sh\necho "cargo $*"\n[ "$FAILS" != "$3" ]\n', { mode: 0o755 });
  const run = (/** @type {string} */ fails) => spawnSync("bash", ["build.sh", "test", "native-lavapipe"], {
    cwd: top, encoding: "utf8", env: { ...process.env, FAILS: fails, PATH: `${join(top, "bin")}:${process.env.PATH}` },
  });
  const { stdout, status } = run("nothing");
  assert.equal(status, 0, stdout);
  const folder = readdirSync(join(TOP, "tests"), { withFileTypes: true });
  const targets = folder.flatMap((entry) => {
    if (entry.name.endsWith(".rs")) return entry.name.slice(0, -3);
    return entry.isDirectory() && existsSync(join(TOP, "tests", entry.name, "main.rs")) ? entry.name : [];
  });
  assert.ok(targets.includes("checkpoint") && targets.includes("gpu_model"));
  const named = [...stdout.matchAll(/--test=(\S+)/g)].map(([, name]) => name);
  assert.deepEqual(named.toSorted(), targets.toSorted());
  assert.match(stdout, /cargo test --doc/);
  assert.match(stdout, /cargo test --no-fail-fast --lib --bins/);
  for (const fails of ["--lib", "--test=memory"]) assert.equal(run(fails).status, 1, fails);
});

test("seven billion parameters are tested on request, and by themselves", () => {
  const run = (/** @type {string[]} */ ...words) => spawnSync("bash", ["build.sh", "test", ...words], { cwd: TOP, encoding: "utf8" });
  const { stdout: stages } = run("--list");
  assert.match(stages, /^browser-chromium$/m);
  assert.doesNotMatch(stages, /seven/);
  assert.match(run("--seven-billion", "fmt").stderr, /--seven-billion runs alone/);
  assert.match(run("seven").stderr, /no stage seven/);
});
