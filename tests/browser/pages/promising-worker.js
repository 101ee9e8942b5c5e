// The client's worker, with an adapter that promises subgroups and gives none. Imports run in order.

import "./gpu-promising.js";
import "./gpu-uncaught.js";
// @ts-ignore: there is no such file where the type checker looks
import "/pkg/worker.js";
