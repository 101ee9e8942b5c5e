// What the worker behind this hears of loads has no limit of time.

self.addEventListener("message", ({ data }) => {
  if (data.type === "load") data.options.tuningMs = 600_000;
});
