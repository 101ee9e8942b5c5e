/** The line at the bottom: where it runs, memory, context, speed. */

import { byId } from "./dom.js";
import { formatBytes, formatSpeed } from "./format.js";

/** @typedef {import("../pkg/index.js").Engine["info"]} Info */

export class StatusPanel {
  #adapter = byId("status-adapter", HTMLElement);
  #memory = byId("status-memory", HTMLElement);
  #context = byId("status-context", HTMLElement);
  #speed = byId("status-speed", HTMLElement);

  /** @param {Info | null} info */
  model(info) {
    this.#adapter.textContent = info ? `${info.backend === "webgpu" ? "WebGPU: " : ""}${info.adapter.name}` : "none yet";
    this.#adapter.title = this.#adapter.textContent;
    this.#memory.textContent = info ? formatBytes(info.memory.total) : "0 MB";
    this.#memory.title = info
      ? `weights ${formatBytes(info.memory.weights)}, context ${formatBytes(info.memory.kvCache)}${info.kvCache === "f8" ? " as FP8" : ""}, other ${formatBytes(info.memory.activations)}`
      : "";
    this.context(0, info?.contextLength ?? 0);
    this.speed(null);
  }

  /**
   * @param {number} used
   * @param {number} limit
   */
  context(used, limit) {
    this.#context.textContent = limit > 0 ? `${used} of ${limit}` : "0";
  }

  /** @param {number | null} perSecond */
  speed(perSecond) {
    this.#speed.textContent = perSecond === null ? "idle" : formatSpeed(perSecond);
  }
}
