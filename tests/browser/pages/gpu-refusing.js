// A device whose compiler refuses the kernel that the query of this worker's script names: ?kernel=matmul

const { GPUDevice } = /** @type {any} */ (globalThis);
const { createShaderModule } = GPUDevice.prototype;
const entry = `fn ${new URLSearchParams(self.location.search).get("kernel")}(`;

GPUDevice.prototype.createShaderModule = function (/** @type {{ code: string }} */ descriptor) {
  const code = descriptor.code.replace(entry, `no_such_thing ${entry}`);
  return createShaderModule.call(this, { ...descriptor, code });
};
