/** See index.d.ts. */
export * from "../../bise/element.js";
