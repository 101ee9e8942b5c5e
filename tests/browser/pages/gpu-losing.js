// A device that ends on request, and says what a driver's reset says: a browser's own `destroy` is no loss.

const { GPUDevice } = /** @type {any} */ (globalThis);
const { destroy } = GPUDevice.prototype;
/** @type {Map<any, () => void>} */
const losses = new Map();

Object.defineProperty(GPUDevice.prototype, "lost", {
  get() {
    return new Promise((resolve) => losses.set(this, () => resolve({ reason: "unknown", message: "taken away" })));
  },
});
new BroadcastChannel("lose").onmessage = () => {
  for (const [device, lose] of losses) {
    destroy.call(device);
    lose();
  }
  losses.clear();
};
