// A browser with little space: `?left=BYTES` is what it says is left, `?room=BYTES` what can
// really be written.

const given = new URL(location.href).searchParams;
const left = given.get("left");
let room = Number(given.get("room") ?? Infinity);

if (left !== null) navigator.storage.estimate = async () => ({ quota: Number(left), usage: 0 });

/** @type {any} */
const { prototype } = /** @type {any} */ (globalThis).FileSystemSyncAccessHandle;
const { write } = prototype;
prototype.write = function (/** @type {Uint8Array} */ bytes, /** @type {object} */ options) {
  room -= bytes.byteLength;
  if (room < 0) throw new DOMException("the disk is full", "QuotaExceededError");
  return write.call(this, bytes, options);
};

export {};
