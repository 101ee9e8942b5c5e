/**
 * The wasm module as the client uses it, so that the client can be checked without a build. The
 * build writes wasm-bindgen's own declarations over this file in the package.
 */
import type { Delta, EngineLoadOptions, Info, Output, Progress, Request, Source } from "../protocol.js";

/** Fetches and starts the module; further calls give the same one. */
export default function init(): Promise<unknown>;

/** Bytes of wasm memory. */
export function wasm_memory(): number;

export class WebEngine {
  private constructor();
  static load(
    source: Source,
    options: EngineLoadOptions,
    onProgress: (progress: Progress) => void,
    signal: AbortSignal,
  ): Promise<WebEngine>;
  info(): Info;
  generate(request: Request, onDelta: (delta: Delta) => void, signal: AbortSignal): Promise<Output>;
  free(): void;
}
