// What is done to the files of a kept model, in order, on the channel "order".

const channel = new BroadcastChannel("order");

/** @type {any} */
const handles = /** @type {any} */ (globalThis).FileSystemSyncAccessHandle.prototype;
const { truncate } = handles;
handles.truncate = function (/** @type {number} */ bytes) {
  channel.postMessage(`cut to ${bytes}`);
  return truncate.call(this, bytes);
};

const { prototype } = FileSystemDirectoryHandle;
const { removeEntry } = prototype;
prototype.removeEntry = async function (/** @type {string} */ name, /** @type {FileSystemRemoveOptions} */ options) {
  // Slowly, so that whoever does not wait for it is ahead.
  await new Promise((resolve) => setTimeout(resolve, 300));
  await removeEntry.call(this, name, options);
  channel.postMessage(`removed ${name}`);
};

export {};
