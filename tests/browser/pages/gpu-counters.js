// Counts the GPU buffers of this worker that live. Every message to the page is preceded by the counts,
// on the channel "counts".

const counts = { buffers: 0, bytes: 0 };
const live = new WeakSet();
const { GPUDevice, GPUBuffer } = /** @type {any} */ (globalThis);
const { createBuffer } = GPUDevice.prototype;
const { destroy } = GPUBuffer.prototype;

GPUDevice.prototype.createBuffer = function (/** @type {{ size: number }} */ descriptor) {
  const buffer = createBuffer.call(this, descriptor);
  live.add(buffer);
  counts.buffers += 1;
  counts.bytes += descriptor.size;
  return buffer;
};
GPUBuffer.prototype.destroy = function () {
  if (live.delete(this)) {
    counts.buffers -= 1;
    counts.bytes -= this.size;
  }
  return destroy.call(this);
};
// A device that is destroyed destroys its buffers.
const { destroy: destroyDevice } = GPUDevice.prototype;
GPUDevice.prototype.destroy = function () {
  Object.assign(counts, { buffers: 0, bytes: 0 });
  return destroyDevice.call(this);
};

const channel = new BroadcastChannel("counts");
const post = self.postMessage.bind(self);
Object.assign(self, {
  postMessage: (/** @type {any} */ message) => {
    channel.postMessage({ ...counts });
    post(message);
  },
});
