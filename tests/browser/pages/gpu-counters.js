// Counts the GPU buffers of this worker or page. One counts as destroyed only by its own `destroy`:
// what its device's end took with it is counted apart.

export const counts = { created: 0, buffers: 0, bytes: 0, devices: 0, abandoned: 0 };

/** Buffers that live, by device; weak, since counting must not keep anything alive. @type {WeakMap<object, { buffers: number, ended: boolean }>} */
const devices = new WeakMap();
/** The device of every buffer that lives. @type {WeakMap<object, object>} */
const homes = new WeakMap();

/** @param {object} device */
function account(device) {
  let found = devices.get(device);
  if (!found) {
    found = { buffers: 0, ended: false };
    devices.set(device, found);
    counts.devices += 1;
  }
  return found;
}

const { GPUDevice, GPUBuffer } = /** @type {any} */ (globalThis);
const { createBuffer, destroy: destroyDevice } = GPUDevice.prototype;
const { destroy: destroyBuffer } = GPUBuffer.prototype;

GPUDevice.prototype.createBuffer = function (/** @type {{ size: number }} */ descriptor) {
  const buffer = createBuffer.call(this, descriptor);
  homes.set(buffer, this);
  account(this).buffers += 1;
  counts.created += 1;
  counts.buffers += 1;
  counts.bytes += descriptor.size;
  return buffer;
};
GPUBuffer.prototype.destroy = function () {
  const home = homes.get(this);
  if (home && homes.delete(this)) {
    account(home).buffers -= 1;
    counts.buffers -= 1;
    counts.bytes -= this.size;
  }
  return destroyBuffer.call(this);
};
GPUDevice.prototype.destroy = function () {
  const own = account(this);
  if (!own.ended) {
    own.ended = true;
    counts.devices -= 1;
    counts.abandoned += own.buffers;
  }
  return destroyDevice.call(this);
};
