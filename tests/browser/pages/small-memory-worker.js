// The client's worker, with less memory for its wasm module than there could be. Imports run in order.

import "./small-memory.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
