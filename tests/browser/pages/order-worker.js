// The engine's worker, which tells in which order it changes what is kept. Imports run in order.

import "./order.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
