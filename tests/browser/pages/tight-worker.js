// The engine's worker, in a browser with little space. Imports run in order.

import "./tight.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
