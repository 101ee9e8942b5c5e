/* tslint:disable */
/* eslint-disable */

/**
 * A loaded model. `free()` releases its memory on the device.
 */
export class WebEngine {
    private constructor();
    free(): void;
    [Symbol.dispose](): void;
    /**
     * Generates text for a [`Request`]; `on_delta` gets a [`Delta`] per token. Gives the whole
     * [`Output`](crate::engine::Output).
     *
     * # Errors
     * A JavaScript `Error` with a `code`; what `on_delta` throws, if it does.
     */
    generate(request: any, on_delta: Function, signal: AbortSignal): Promise<any>;
    /**
     * What is loaded: [`Info`].
     *
     * # Errors
     * None in practice: plain data always converts.
     */
    info(): any;
    /**
     * Loads a checkpoint. `source` is `{kind: "http", base, headers?}`, `{kind: "files", files: Map}`,
     * `{kind: "directory", handle}` or `{kind: "merge", recipe, models: Map}`; `options` are
     * [`LoadOptions`]; `on_progress` gets [`Progress`], and `on_tensor` what a merge did to each
     * tensor, a [`TensorReport`](crate::merge::TensorReport).
     *
     * # Errors
     * A JavaScript `Error` with a `code`; what `on_progress` throws, if it does.
     */
    static load(source: any, options: any, on_progress: Function, on_tensor: Function, signal: AbortSignal): Promise<WebEngine>;
    /**
     * What the merge did that made these weights: a [`MergeReport`], or null.
     *
     * # Errors
     * None in practice: plain data always converts.
     */
    mergeReport(): any;
    /**
     * Merges into this engine's weights; `source` is `{kind: "merge", recipe, models: Map}`. Gives
     * the [`MergeReport`].
     *
     * # Errors
     * A JavaScript `Error` with a `code`; what a callback throws, if one does.
     */
    replaceWeights(source: any, on_progress: Function, on_tensor: Function, signal: AbortSignal): Promise<any>;
}

/**
 * What this browser's adapter makes of FP8 codes, whole multiples of 16 of them. `format` is
 * `e4m3` or `e5m2`, `decoder` `fast` or `safe`.
 *
 * # Errors
 * A JavaScript `Error` with a `code`.
 */
export function decodeFp8(format: string, decoder: string, codes: Uint8Array | number[]): Promise<Float32Array>;

/**
 * Merges into `sink`, an object whose `create(file, bytes)`, `write(data)` and `finish()` return
 * promises. `source` is `{kind: "merge", recipe, models: Map}`. `on_progress` gets
 * [`WriteProgress`](crate::merge::WriteProgress), `on_tensor` a
 * [`TensorReport`](crate::merge::TensorReport). Gives the
 * [`MergeReport`](crate::merge::MergeReport).
 *
 * # Errors
 * A JavaScript `Error` with a `code`; what a callback throws, if one does.
 */
export function merge(source: any, options: any, sink: any, on_progress: Function, on_tensor: Function, signal: AbortSignal): Promise<any>;

/**
 * The models that a recipe reads, each once.
 *
 * # Errors
 * `bad-recipe`.
 */
export function recipeModels(recipe: string): string[];

/**
 * Sends panic messages to the console, where a crash report can quote them.
 */
export function start(): void;

/**
 * Size of the wasm memory in bytes. It never shrinks, so a leak shows as growth.
 */
export function wasm_memory(): number;

export type InitInput = RequestInfo | URL | Response | BufferSource | WebAssembly.Module;

export interface InitOutput {
    readonly memory: WebAssembly.Memory;
    readonly __wbg_webengine_free: (a: number, b: number) => void;
    readonly decodeFp8: (a: number, b: number, c: number, d: number, e: number, f: number) => any;
    readonly merge: (a: any, b: any, c: any, d: any, e: any, f: any) => any;
    readonly recipeModels: (a: number, b: number) => [number, number, number, number];
    readonly start: () => void;
    readonly wasm_memory: () => number;
    readonly webengine_generate: (a: number, b: any, c: any, d: any) => any;
    readonly webengine_info: (a: number) => [number, number, number];
    readonly webengine_load: (a: any, b: any, c: any, d: any, e: any) => any;
    readonly webengine_mergeReport: (a: number) => [number, number, number];
    readonly webengine_replaceWeights: (a: number, b: any, c: any, d: any, e: any) => any;
    readonly wasm_bindgen__convert__closures_____invoke__h11e781c9c764c489: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h11e781c9c764c489_15: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h11e781c9c764c489_16: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h2a5229a0abe330dc: (a: number, b: number, c: any, d: any) => void;
    readonly wasm_bindgen__convert__closures_____invoke__h60212f4cea14d175: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h4848b74c77c1afa3: (a: number, b: number, c: any) => void;
    readonly wasm_bindgen__convert__closures_____invoke__h4848b74c77c1afa3_14: (a: number, b: number, c: any) => void;
    readonly __wbindgen_malloc: (a: number, b: number) => number;
    readonly __wbindgen_realloc: (a: number, b: number, c: number, d: number) => number;
    readonly __wbindgen_free: (a: number, b: number, c: number) => void;
    readonly __wbindgen_exn_store: (a: number) => void;
    readonly __externref_table_alloc: () => number;
    readonly __wbindgen_externrefs: WebAssembly.Table;
    readonly __wbindgen_destroy_closure: (a: number, b: number) => void;
    readonly __externref_table_dealloc: (a: number) => void;
    readonly __externref_drop_slice: (a: number, b: number) => void;
    readonly __wbindgen_start: () => void;
}

export type SyncInitInput = BufferSource | WebAssembly.Module;

/**
 * Instantiates the given `module`, which can either be bytes or
 * a precompiled `WebAssembly.Module`.
 *
 * @param {{ module: SyncInitInput }} module - Passing `SyncInitInput` directly is deprecated.
 *
 * @returns {InitOutput}
 */
export function initSync(module: { module: SyncInitInput } | SyncInitInput): InitOutput;

/**
 * If `module_or_path` is {RequestInfo} or {URL}, makes a request and
 * for everything else, calls `WebAssembly.instantiate` directly.
 *
 * @param {{ module_or_path: InitInput | Promise<InitInput> }} module_or_path - Passing `InitInput` directly is deprecated.
 *
 * @returns {Promise<InitOutput>}
 */
export default function __wbg_init (module_or_path?: { module_or_path: InitInput | Promise<InitInput> } | InitInput | Promise<InitInput>): Promise<InitOutput>;
