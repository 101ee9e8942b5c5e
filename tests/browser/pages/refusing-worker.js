// The client's worker, on a device whose compiler refuses a kernel. Imports run in order.

import "./gpu-refusing.js";
import "./gpu-uncaught.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
