/** The wasm module with the bench, as wasm/bise.d.ts is the one without. */
import type { BenchReport, EngineLoadOptions, Progress, Source, TensorReport } from "../protocol.js";
import init, { WebEngine as Engine } from "../wasm/bise.js";

export * from "../wasm/bise.js";
export default init;

export class WebEngine extends Engine {
  static load(
    source: Source,
    options: EngineLoadOptions,
    onProgress: (progress: Progress) => void,
    onTensor: (tensor: TensorReport) => void,
    signal: AbortSignal,
  ): Promise<WebEngine>;
  benchLogits(): Promise<Float32Array>;
  bench(
    expected: Float32Array,
    rounds: number,
    longest: number,
    quick: boolean,
    onProgress: (next: [what: string, at: number]) => void,
    signal: AbortSignal,
  ): Promise<Omit<BenchReport, "hostBytes">>;
}
