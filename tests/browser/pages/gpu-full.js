// Every error scope that waits for it gets what a browser gives when the device's memory is full.

const { GPUDevice, GPUOutOfMemoryError } = /** @type {any} */ (globalThis);
const { pushErrorScope, popErrorScope } = GPUDevice.prototype;
/** @type {string[]} */
const scopes = [];

GPUDevice.prototype.pushErrorScope = function (/** @type {string} */ filter) {
  scopes.push(filter);
  return pushErrorScope.call(this, filter);
};
GPUDevice.prototype.popErrorScope = async function () {
  const full = scopes.pop() === "out-of-memory";
  const error = await popErrorScope.call(this);
  return full ? new GPUOutOfMemoryError("full") : error;
};
