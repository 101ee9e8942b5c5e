// Where things lie on this machine.

import { fileURLToPath } from "node:url";

/** @param {string} path from the top of the repository */
export const fromTop = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** Checkpoints. */
export const MODELS = { tale: fromTop("www/models/tale"), case: fromTop("www/models/case"), smollm2: fromTop("target/models/smollm2-135m") };
