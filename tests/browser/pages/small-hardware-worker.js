// The same, on an adapter that says it is hardware. Imports run in order.

import "./gpu-hardware.js";
import "./gpu-losing.js";
import "./small-memory.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
