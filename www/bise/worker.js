/** The dedicated worker that owns the wasm module and the GPU. */

import * as wasm from "./wasm/bise.js";
import { work } from "./work.js";

work(wasm);
