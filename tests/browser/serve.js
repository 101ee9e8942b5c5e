// `bise serve` over the built site and what a benchmark adds to it: a server in a process of its own, and fast.

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fromTop } from "./paths.js";

/**
 * Starts `program serve` on a free port. Files appear as symbolic links in `folder`, which is emptied first.
 * @param {string} program
 * @param {string} folder
 */
export async function startServe(program, folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const mount = (/** @type {string} */ path, /** @type {string} */ target) => {
    mkdirSync(join(folder, path, ".."), { recursive: true });
    symlinkSync(target, join(folder, path));
  };
  mount("pkg", fromTop("target/site/pkg"));
  mount("index.html", fromTop("target/site/index.html"));
  mount("pages", fromTop("tests/browser/pages"));
  const server = spawn(program, ["serve", "--port", "0", "--dir", folder], { stdio: ["ignore", "pipe", "inherit"] });
  process.once("exit", () => server.kill());
  /** Bytes that it has read from files so far. */
  const bytesRead = () => Number(/rchar: (\d+)/.exec(readFileSync(`/proc/${server.pid}/io`, "utf8"))?.[1]);
  for await (const line of createInterface({ input: server.stdout })) {
    const url = /http:\/\/localhost:\d+/.exec(line)?.[0];
    if (url) return { url, mount, bytesRead, close: () => server.kill() };
  }
  throw new Error(`${program} serve ended`);
}
