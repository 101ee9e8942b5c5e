// The model's server cannot be reached from here.

const { fetch } = globalThis;
globalThis.fetch = (input, init) => {
  const { pathname } = new URL(input instanceof Request ? input.url : input, location.href);
  return pathname.startsWith("/models/") ? Promise.reject(new TypeError("no network")) : fetch(input, init);
};

export {};
