// An adapter that says that it has subgroups, and a device that has none.

const { GPUAdapter, GPUSupportedFeatures } = /** @type {any} */ (globalThis);
const { requestDevice } = GPUAdapter.prototype;
const { has } = GPUSupportedFeatures.prototype;

GPUSupportedFeatures.prototype.has = function (/** @type {string} */ name) {
  return name === "subgroups" || has.call(this, name);
};

// What the client completes on its way to here is taken out again.
GPUAdapter.prototype.requestDevice = async function (/** @type {any} */ descriptor = {}) {
  const requiredFeatures = [...(descriptor.requiredFeatures ?? [])].filter((name) => name !== "subgroups");
  const device = await requestDevice.call(this, { ...descriptor, requiredFeatures });
  // Errors that come at any time, for whoever looks next, are not what the test expects.
  device.addEventListener("uncapturederror", (/** @type {any} */ { error }) => console.error(`nobody's error: ${error.message}`));
  return device;
};
