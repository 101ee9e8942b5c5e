// Errors of a device that nobody caught come at any time, to whoever looks next. Here they are errors of the page.

const { prototype } = /** @type {any} */ (globalThis).GPUAdapter;
const { requestDevice } = prototype;

prototype.requestDevice = async function (/** @type {any} */ ...args) {
  const device = await requestDevice.apply(this, args);
  device.addEventListener("uncapturederror", (/** @type {any} */ { error }) => console.error(`nobody's error: ${error.message}`));
  return device;
};
