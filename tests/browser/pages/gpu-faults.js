// A GPU that fails a merge. With `?lost=N` in the worker's address the device is lost as the Nth result
// is to be read back, with `?full=WORD` there is no room for tensors that have the word in their name.

const query = new URLSearchParams(self.location.search);
const lostAt = Number(query.get("lost"));
const full = query.get("full");

/** @type {GPUDevice | undefined} */
let device;
const { requestDevice } = GPUAdapter.prototype;
GPUAdapter.prototype.requestDevice = async function (...rest) {
  device = await requestDevice.apply(this, rest);
  return device;
};

let readbacks = 0;
const { mapAsync } = GPUBuffer.prototype;
GPUBuffer.prototype.mapAsync = function (...rest) {
  readbacks += 1;
  if (readbacks === lostAt) device?.destroy();
  return mapAsync.apply(this, rest);
};

let isFull = false;
/** @type {GPUErrorFilter[]} */
const scopes = [];
const { createBuffer, pushErrorScope, popErrorScope } = GPUDevice.prototype;
GPUDevice.prototype.createBuffer = function (descriptor) {
  isFull ||= full !== null && (descriptor.label ?? "").includes(full);
  return createBuffer.call(this, descriptor);
};
GPUDevice.prototype.pushErrorScope = function (filter) {
  scopes.push(filter);
  return pushErrorScope.call(this, filter);
};
GPUDevice.prototype.popErrorScope = async function () {
  const filter = scopes.pop();
  const fails = isFull && filter === "out-of-memory";
  const error = await popErrorScope.call(this);
  if (!fails) return error;
  isFull = false;
  return new GPUOutOfMemoryError("no room");
};
