// The client's worker with a GPU that fails. Imports run in order.

import "./gpu-faults.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
