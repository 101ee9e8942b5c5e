// The client's worker, on a device whose memory is full. Imports run in order.

import "./gpu-full.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
