// Takes WebGPU away.

Reflect.deleteProperty(Object.getPrototypeOf(navigator), "gpu");
if ("gpu" in navigator) throw new Error("navigator.gpu cannot be deleted here");
