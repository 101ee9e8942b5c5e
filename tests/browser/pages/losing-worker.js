// The client's worker, on a device that is lost when the channel "lose" says so. Imports run in order.

import "./gpu-losing.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
