// The client's worker with all the time it needs to compare kernels, however slow the machine is just now. Imports run
// in order.

import "./tuning-time.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
