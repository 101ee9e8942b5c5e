// The client's worker, with its GPU buffers counted: every message to the page is preceded by the
// counts, on the channel "counts". Imports run in order.

import { counts } from "./gpu-counters.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";

const channel = new BroadcastChannel("counts");
const post = self.postMessage.bind(self);
Object.assign(self, {
  postMessage: (/** @type {any} */ message) => {
    channel.postMessage({ ...counts });
    post(message);
  },
});
