// The client's worker, with its GPU buffers counted. Imports run in order.

import "./gpu-counters.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
