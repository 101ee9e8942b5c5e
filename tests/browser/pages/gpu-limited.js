// A device that runs out of memory, as the query of this worker's script says:
//   bytes=N            beyond N bytes of buffers
//   label=L            at the first buffer of that label
//   write=N            at the Nth write into a buffer
// What fails does so as in a browser: the innermost scope for it gets the error, else the device's listener, and the
// buffer cannot be used.

const { GPUDevice, GPUBuffer, GPUQueue, GPUOutOfMemoryError, GPUUncapturedErrorEvent } = /** @type {any} */ (globalThis);
const query = new URLSearchParams(self.location.search);
const limit = Number(query.get("bytes") ?? Infinity);
const label = query.get("label");
const failingWrite = Number(query.get("write") ?? Infinity);

/** Scopes that wait, each with whether it caught something. @type {{ filter: string, caught: boolean }[]} */
const scopes = [];
/** @type {any} */
let device = null;
let bytes = 0;
let writes = 0;
let failed = false;

const { createBuffer, pushErrorScope, popErrorScope } = GPUDevice.prototype;
const { destroy } = GPUBuffer.prototype;
const { writeBuffer } = GPUQueue.prototype;

function runOut() {
  failed = true;
  const scope = scopes.findLast(({ filter }) => filter === "out-of-memory");
  if (scope) scope.caught = true;
  else device.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error: new GPUOutOfMemoryError("full"), cancelable: true }));
}

GPUDevice.prototype.createBuffer = function (/** @type {{ size: number, label?: string }} */ descriptor) {
  device = this;
  bytes += descriptor.size;
  const buffer = createBuffer.call(this, descriptor);
  if (bytes > limit || (descriptor.label === label && !failed)) {
    runOut();
    destroy.call(buffer);
  }
  return buffer;
};
GPUBuffer.prototype.destroy = function () {
  bytes -= this.size;
  return destroy.call(this);
};
GPUQueue.prototype.writeBuffer = function (/** @type {unknown[]} */ ...args) {
  writes += 1;
  if (writes === failingWrite) runOut();
  return writeBuffer.apply(this, args);
};
GPUDevice.prototype.pushErrorScope = function (/** @type {string} */ filter) {
  device = this;
  scopes.push({ filter, caught: false });
  return pushErrorScope.call(this, filter);
};
GPUDevice.prototype.popErrorScope = async function () {
  const scope = scopes.pop();
  const error = await popErrorScope.call(this);
  return scope?.caught ? new GPUOutOfMemoryError("full") : error;
};
