/**
 * The wasm module as the client uses it, so that the client can be checked without a build. The
 * build writes wasm-bindgen's own declarations over this file in the package.
 */
import type {
  Delta, EngineLoadOptions, Info, MergeProgress, MergeReport, MergeSource, Output, PlainSource, Progress, RawInspection,
  RecipeOutline,
  Request, Source,
  TensorReport,
} from "../protocol.js";
import type { Sink } from "../sink.js";

/** Fetches and starts the module; further calls give the same one. */
export default function init(): Promise<unknown>;

/** Bytes of wasm memory. */
export function wasm_memory(): number;

export class WebEngine {
  protected constructor();
  static load(
    source: Source,
    options: EngineLoadOptions,
    onProgress: (progress: Progress) => void,
    onTensor: (tensor: TensorReport) => void,
    signal: AbortSignal,
  ): Promise<WebEngine>;
  info(): Info;
  mergeReport(): MergeReport | null;
  replaceWeights(
    source: MergeSource,
    onProgress: (progress: Progress) => void,
    onTensor: (tensor: TensorReport) => void,
    signal: AbortSignal,
  ): Promise<MergeReport>;
  generate(request: Request, onDelta: (delta: Delta) => void, signal: AbortSignal): Promise<Output>;
  free(): void;
}

/** Describes a checkpoint without loading it. */
export function inspect(
  source: PlainSource,
  options: EngineLoadOptions,
  signal: AbortSignal,
): Promise<RawInspection>;

/** The models that a recipe names. */
export function recipeModels(recipe: string): string[];

/** What a recipe says. */
export function recipeOutline(recipe: string): RecipeOutline;

/** Merges into a sink, or copies a single model, which `name` stands for in messages. */
export function merge(
  source: Source,
  options: { backend?: "auto" | "webgpu" | "cpu", f8?: boolean, shardBytes?: number, name?: string },
  sink: Sink,
  onProgress: (progress: MergeProgress) => void,
  onTensor: (tensor: TensorReport) => void,
  signal: AbortSignal,
): Promise<MergeReport>;
