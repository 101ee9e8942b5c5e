// The client's worker in a browser without WebGPU. Imports run in order.

import "./no-gpu.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
