// The client's worker, on a device that runs out of memory where its query says. Imports run in order.

import "./gpu-limited.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
