// A device whose compiler refuses the kernel that the query of this worker's script names: ?kernel=matmul

const { GPUDevice } = /** @type {any} */ (globalThis);
const { createShaderModule } = GPUDevice.prototype;
const { requestDevice } = /** @type {any} */ (globalThis).GPUAdapter.prototype;
const entry = `fn ${new URLSearchParams(self.location.search).get("kernel")}(`;

GPUDevice.prototype.createShaderModule = function (/** @type {{ code: string }} */ descriptor) {
  const code = descriptor.code.replace(entry, `no_such_thing ${entry}`);
  return createShaderModule.call(this, { ...descriptor, code });
};

// Errors that come at any time, for whoever looks next, are not what a test expects.
/** @type {any} */ (globalThis).GPUAdapter.prototype.requestDevice = async function (/** @type {any} */ ...args) {
  const device = await requestDevice.apply(this, args);
  device.addEventListener("uncapturederror", (/** @type {any} */ { error }) => console.error(`nobody's error: ${error.message}`));
  return device;
};
