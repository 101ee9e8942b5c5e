// An adapter that says that it has subgroups, and a device that has none.

const { GPUAdapter, GPUSupportedFeatures } = /** @type {any} */ (globalThis);
const { requestDevice } = GPUAdapter.prototype;
const { has } = GPUSupportedFeatures.prototype;

GPUSupportedFeatures.prototype.has = function (/** @type {string} */ name) {
  return name === "subgroups" || has.call(this, name);
};

// What the client completes on its way to here is taken out again.
GPUAdapter.prototype.requestDevice = function (/** @type {any} */ descriptor = {}) {
  const requiredFeatures = [...(descriptor.requiredFeatures ?? [])].filter((name) => name !== "subgroups");
  return requestDevice.call(this, { ...descriptor, requiredFeatures });
};
