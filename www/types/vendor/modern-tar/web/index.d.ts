/** The site has the package of that name here; see tests/package.json. */
export * from "../../../../../tests/node_modules/modern-tar/dist/web/index.js";
