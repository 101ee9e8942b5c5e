// The client's worker, on an adapter that says it is hardware and is lost when the channel "lose" says so. Imports run
// in order.

import "./gpu-hardware.js";
import "./gpu-losing.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
