// Starts a browser whose WebGPU runs on a software adapter, in a profile of its own.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import puppeteer from "puppeteer-core";

/** @typedef {"chromium" | "firefox"} BrowserName */

/** Time for one call into the page, in milliseconds: software adapters are slow. */
const CALL_TIMEOUT_MS = 600_000;

const CHROMIUM_ARGS = [
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-dev-shm-usage", // containers have a small /dev/shm
];

/** Without these Chromium offers no adapter on a machine without a graphics card. */
const CHROMIUM_SOFTWARE_ADAPTER = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-unsafe-swiftshader"];

const FIREFOX_PREFERENCES = {
  "dom.webgpu.enabled": true,
  "dom.webgpu.workers.enabled": true,
  "gfx.webgpu.force-enabled": true,
  "gfx.webgpu.ignore-blocklist": true,
  "dom.webgpu.allow-fallback-adapter": true,
  "browser.download.folderList": 2, // the one named by browser.download.dir
};

/**
 * The browser under test, from the environment.
 * @returns {BrowserName}
 */
export function browserName() {
  const name = process.env.BROWSER ?? "chromium";
  if (name !== "chromium" && name !== "firefox") throw new Error(`BROWSER is chromium or firefox, not ${name}`);
  return name;
}

/** A new folder for a profile. @param {BrowserName} name */
export const newProfile = (name) => mkdtempSync(join(tmpdir(), `bise-${name}-`));

/**
 * Starts a browser. `close` ends it and removes its profile; so does the end of this process. `kill` ends it as a power
 * cut would, and leaves the profile, which another browser may then be started with. What its pages download lands in
 * the folder `downloads`, in Chromium for contexts that are opened with `context`.
 * @param {BrowserName} name
 * @param {string} [profile] a folder
 * @param {{ networkEnabled?: boolean, args?: string[], adapter?: boolean }} [options] whether its requests can be watched:
 * that keeps a copy of every answer, and makes large ones several times as slow; for Chromium, further arguments, and
 * whether it has an adapter
 */
export async function launch(name, profile = newProfile(name), { networkEnabled = true, args = [], adapter = true } = {}) {
  const downloads = join(profile, "downloads");
  mkdirSync(downloads, { recursive: true });
  const removeProfile = () => rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  process.once("exit", removeProfile);
  // A busy machine takes its time to start a browser, too.
  const common = { headless: true, userDataDir: profile, timeout: 180_000, protocolTimeout: CALL_TIMEOUT_MS, networkEnabled };
  const browser = await puppeteer.launch(
    name === "chromium"
      ? { ...common, browser: "chrome", executablePath: find(["chromium", "chromium-browser", "google-chrome"]), args: [...CHROMIUM_ARGS, ...(adapter ? CHROMIUM_SOFTWARE_ADAPTER : []), ...args] }
      : {
          ...common,
          browser: "firefox",
          executablePath: find(["firefox", "firefox-esr"]),
          extraPrefsFirefox: { ...FIREFOX_PREFERENCES, "browser.download.dir": downloads },
          env: { ...process.env, VK_DRIVER_FILES: lavapipe(), VK_ICD_FILENAMES: lavapipe() },
        },
  );
  const kill = () => killGroup(browser.process()?.pid);
  process.once("exit", kill);
  const close = async () => {
    await browser.close();
    kill();
    process.off("exit", kill);
    removeProfile();
    process.off("exit", removeProfile);
  };
  /** Until all of its processes are gone: they lock the profile. */
  const killNow = async () => {
    const { pid } = browser.process() ?? {};
    kill();
    while (pid !== undefined && groupLives(pid)) await new Promise((resolve) => setTimeout(resolve, 20));
    process.off("exit", kill);
    process.off("exit", removeProfile);
  };
  /** @type {import("puppeteer-core").BrowserContextOptions} */
  const context = name === "chromium" ? { downloadBehavior: { policy: "allow", downloadPath: downloads } } : {};
  return { browser, close, kill: killNow, downloads, context };
}

/**
 * Ends a browser with all its helpers: it leads a process group of its own.
 * @param {number | undefined} pid
 */
function killGroup(pid) {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has ended already.
  }
}

/** @param {number} pid */
function groupLives(pid) {
  try {
    process.kill(-pid, 0);
    return true;
  } catch {
    return false;
  }
}

/**
 * The first of these commands that is installed.
 * @param {string[]} commands
 */
function find(commands) {
  for (const command of commands) {
    try {
      return execFileSync("sh", ["-c", 'command -v "$0"', command], { encoding: "utf8" }).trim();
    } catch {
      // Not installed: try the next.
    }
  }
  throw new Error(`none of these is installed: ${commands.join(", ")}`);
}

/** Mesa's software driver for Vulkan. */
function lavapipe() {
  const folder = "/usr/share/vulkan/icd.d";
  const file = existsSync(folder) && readdirSync(folder).find((name) => /^lvp_icd.*\.json$/.test(name));
  if (!file) throw new Error(`no lavapipe in ${folder}: install mesa-vulkan-drivers`);
  return join(folder, file);
}
