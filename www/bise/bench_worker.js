/** The worker of the bench, whose wasm module can time what it loads. */

import * as wasm from "./wasm-bench/bise.js";
import { work } from "./work.js";

work(wasm);
