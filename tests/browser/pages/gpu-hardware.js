// An adapter that says it is hardware: what "auto" takes WebGPU for.

const { GPUAdapterInfo } = /** @type {any} */ (globalThis);
for (const [name, value] of Object.entries({ isFallbackAdapter: false, vendor: "hard", architecture: "ware", description: "" })) {
  Object.defineProperty(GPUAdapterInfo.prototype, name, { get: () => value });
}
