/** The page imports `./pkg/index.js`, which the build makes of `bise/`; this lets it be checked before. */
export * from "../../bise/index.js";
