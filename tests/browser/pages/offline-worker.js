// The engine's worker, where the model's server cannot be reached. Imports run in order.

import "./offline.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
