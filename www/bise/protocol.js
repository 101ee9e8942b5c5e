/**
 * Every message between the page and the worker. Types only: nothing here runs.
 *
 * Each message to the worker but `abort` starts a call; its `id` comes back in any number of events
 * (`progress`, `delta`, `keeping`) and then exactly one end (`done` or `error`). `crashed` has no id: the worker
 * is beyond repair and answers nothing any more.
 */

export {};

/**
 * Where a checkpoint lies. `listing` is where a hub names the files of the repository; headers, which may hold
 * secrets, are for requests only.
 * @typedef {{ kind: "http", base: string, listing?: string, headers?: Record<string, string>,
 *   network?: import("./model.js").Network }
 *   | { kind: "files", files: Map<string, File> }
 *   | { kind: "directory", handle: FileSystemDirectoryHandle }} PlainSource
 */

/**
 * A merge that is yet to be done. Of the recipe's models, those that are not in `models` are looked up by their
 * names: on the hub, or as URLs from the page's.
 * @typedef {{ kind: "merge", recipe: string, models: Map<string, PlainSource>, hubUrl: string, pageUrl: string,
 *   headers?: Record<string, string>, token?: string, network?: import("./model.js").Network }} MergeSource
 */

/** @typedef {PlainSource | MergeSource} Source */

/**
 * Why nothing comes for the time being: in `ms` milliseconds a server is asked again, for the `attempt`th time.
 * @typedef {{ ms: number, attempt: number, reason: string }} Waiting
 */

/**
 * How far a merge into files is, in bytes of weight files.
 * @typedef {{ file: string, done: number, total: number, waiting?: Waiting }} MergeProgress
 */

/**
 * What a merge did to one tensor. With `method` "slerp", `t`, `dot` and `branch` are there too.
 * @typedef {object} TensorReport
 * @property {string} tensor
 * @property {string} [document] where the recipe has several
 * @property {number[]} shape
 * @property {"slerp" | "linear" | "passthrough"} method
 * @property {string[]} sources the base first
 * @property {number[]} coefficients factors of the sources
 * @property {number[]} norms of the sources
 * @property {number[]} distances of the result, before it was rounded, from the sources
 * @property {"cpu" | "gpu"} path where it was computed; "cpu" also where the CPU ended what a GPU had begun
 * @property {number} [t]
 * @property {number} [dot] cosine of the angle between both
 * @property {"linear" | "spherical"} [branch] the formula that followed from it
 */

/**
 * @typedef {object} MergeReport
 * @property {TensorReport[]} tensors
 * @property {string[]} warnings
 * @property {{ tensors: number, parameters: number, spherical: number, linear: number, distances: [number, number] }} totals
 */

/**
 * A parameter of a recipe: of its conditions, the first that matches a tensor's name gives the value. Several anchors
 * are a gradient over the layers of a slice.
 * @typedef {{ place: string, conditions: { filter: string | null, anchors: number[] }[] }} RecipeParameter
 */

/** @typedef {Record<string, RecipeParameter>} RecipeParameters */

/**
 * @typedef {{ place: string, model: string, layers: { start: number, end: number } | null,
 *   parameters: RecipeParameters }} RecipeSource
 */

/**
 * One merge of a recipe. Types have the names that recipes use.
 * @typedef {object} RecipeDocument
 * @property {string} place
 * @property {string | null} name
 * @property {"slerp" | "linear" | "passthrough"} method
 * @property {string | null} base
 * @property {{ slices: { place: string, sources: RecipeSource[], parameters: RecipeParameters }[] }
 *   | { models: RecipeSource[] }} layout
 * @property {RecipeParameters} moduleParameters
 * @property {RecipeParameters} parameters
 * @property {string | null} dtype
 * @property {string | null} outDtype
 * @property {"base" | "union" | { model: string }} tokenizer
 * @property {"auto" | { jinja: string } | null} chatTemplate
 */

/**
 * What a recipe says. The last document is the result; `models` are those that are read, each once.
 * @typedef {{ documents: RecipeDocument[], warnings: string[], models: string[] }} RecipeOutline
 */

/**
 * Options of a load, as the engine takes them.
 * @typedef {{ backend?: "auto" | "webgpu" | "cpu", weights?: "checkpoint" | "f8" | "i8", contextLength?: number,
 *   kvCache?: "f16" | "f8", autotune?: boolean, tuningMs?: number, lost?: boolean }} EngineLoadOptions
 *   `lost`: the page's last device was lost; `tuningMs`: what tuning may take, for tests
 */

/**
 * What a browser tells of its adapter: a description, or maker and family, or ""; whether it is a fallback.
 * @typedef {{ name: string, fallback: boolean, insecure: boolean, identity: string, subgroup: number }} Told `identity`: all that
 *   tells it from others; `subgroup`: threads that every subgroup has, 0 where devices get no subgroups
 */

/**
 * How far a load is. Units are bytes in phase `weights` and pipelines in phase `shaders`; `total` is 0
 * while it is unknown. `done` never goes back and counts no byte twice; with `waiting` it stands still. `note` is what
 * the visitor should know, such as why the model will not be kept.
 * @typedef {{ phase: "adapter" | "config" | "weights" | "shaders", done: number, total: number, waiting?: Waiting,
 *   note?: string }} Progress
 */

/**
 * What is loaded. Memory is in bytes on the device.
 * @typedef {object} Info
 * @property {string} architecture `model_type` of config.json
 * @property {number} parameters number of weights
 * @property {number} contextLength positions a conversation may take here
 * @property {number} maxContextLength positions the model was made for
 * @property {number | null} slidingWindow
 * @property {number} layers
 * @property {number} vocab
 * @property {"checkpoint" | "f8" | "i8"} weights how weights are stored
 * @property {"f16" | "f8"} kvCache how keys and values are stored
 * @property {"webgpu" | "cpu"} backend
 * @property {string | null} backendReason why, where the choice was left to the engine
 * @property {{ name: string, driver: string, software: boolean, maxBindingBytes: number, fp8Decoder: string,
 *   threads: [number, number] | null, subgroup: number }} adapter
 * @property {{ state: "timed" | "remembered" | "usual", note: string | null, key: string, choice: number[] }} tuning how
 *   the kernels were chosen: by timing them in this load or in an earlier one, or as usual for such a device, and why
 * @property {{ weights: number, kvCache: number, activations: number, total: number }} memory
 * @property {boolean} chat whether the checkpoint has a chat template
 * @property {boolean} tokenizer whether the checkpoint has a tokenizer
 * @property {CacheReport} cache
 * @property {Record<string, string>} sha256 of the weight files, as far as they were hashed: what the option `integrity`
 *   takes
 */

/**
 * What a load had from the cache: all weights ("loaded"), those of an interrupted load ("resumed"), or none, and they
 * are kept now ("stored"). "off": nothing is kept; `note` says why, where it was meant to be.
 * @typedef {{ state: "off" | "stored" | "resumed" | "loaded", note: string | null }} CacheReport
 */

/**
 * What a checkpoint holds and what it would take here, from its small files and headers alone. Memory is in bytes on
 * the device.
 * @typedef {object} Inspection
 * @property {string} architecture `model_type` of config.json
 * @property {number} parameters number of weights
 * @property {number} layers
 * @property {number} vocab
 * @property {string} dtype how most of its weights are stored, such as "BF16" or "F8_E4M3"
 * @property {string | null} scales how many of its FP8 weights share a scale, in words
 * @property {Record<string, number>} tensors number of tensors by dtype
 * @property {number} files number of weight files
 * @property {number} downloadBytes bytes of weights to fetch
 * @property {"checkpoint" | "f8" | "i8"} weights how weights would be stored
 * @property {number} contextLength positions that `memory` counts
 * @property {number} maxContextLength positions the model was made for
 * @property {number | null} slidingWindow
 * @property {{ weights: number, kvCache: number, activations: number, total: number }} memory
 * @property {{ contextLength: number, total: number, kvCache: number, activations: number }[]} contexts memory at other
 *   lengths that this device holds, the shortest first
 * @property {"webgpu" | "cpu"} backend where a load with these options would run
 * @property {string | null} backendReason why, where the choice was left to the engine
 * @property {{ name: string, software: boolean, maxBindingBytes: number } | null} adapter null where there is no WebGPU
 * @property {string[]} problems why this model does not fit, and what to do: the adapter's limits, or on the processor the
 *   memory that WebAssembly has; empty if it does. How much memory is free no browser tells
 * @property {{ freeBytes: number, quotaBytes: number } | null} storage of this browser for this site; null where it does
 *   not say
 * @property {boolean} chat whether the checkpoint has a chat template
 * @property {boolean} tokenizer whether the checkpoint has a tokenizer
 * @property {boolean} kept whether this browser keeps it whole, in the form that a load with these options takes: nothing
 *   is to be fetched
 */

/**
 * What the wasm module answers: `Inspection` of src/engine/inspect.rs.
 * @typedef {object} RawInspection
 * @property {string} architecture
 * @property {number} parameters
 * @property {number} layers
 * @property {number} vocab
 * @property {string} dtype
 * @property {string | null} scales
 * @property {Record<string, number>} tensors
 * @property {number} shards
 * @property {number} weight_bytes
 * @property {"checkpoint" | "f8" | "i8"} weights
 * @property {number} context_length
 * @property {number} max_context_length
 * @property {number | null} sliding_window
 * @property {number} device_bytes
 * @property {number} device_bytes_f8
 * @property {number} kv_cache_bytes
 * @property {number} activation_bytes
 * @property {number} total_bytes
 * @property {{ context_length: number, kv_cache_bytes: number, activation_bytes: number }[]} contexts
 * @property {"webgpu" | "cpu"} backend
 * @property {string | null} backend_reason
 * @property {string | null} adapter
 * @property {boolean} software
 * @property {number} max_binding_bytes
 * @property {string[]} problems
 * @property {boolean} tokenizer
 * @property {boolean} chat
 * @property {boolean} kept
 */

/**
 * @typedef {{ role: string, content: string }} Message
 */

/**
 * One generation, as the engine takes it.
 * @typedef {object} Request
 * @property {{ messages: Message[] } | { text: string } | { ids: number[] }} prompt
 * @property {number} [temperature]
 * @property {number} [top_p]
 * @property {number} [top_k]
 * @property {number} [min_p]
 * @property {number} [max_tokens]
 * @property {string[]} [stop]
 * @property {number} [seed]
 * @property {Record<string, number>} [logit_bias]
 * @property {number} [repetition_penalty]
 * @property {number} [frequency_penalty]
 * @property {number} [presence_penalty]
 * @property {boolean} [ignore_eos]
 * @property {number} [logprobs] alternatives per token
 */

/**
 * @typedef {{ id: number, token: string, bytes: number[], logprob: number }} Alternative
 */

/**
 * A generated token; `text_offset` is where its text begins in the generated text.
 * @typedef {Alternative & { top: Alternative[], text_offset: number }} TokenLogprob
 */

/**
 * What one token added. `text` is empty while a character or a possible stop string is incomplete; `id` is
 * null for text that was held back to the end; `prompt_tokens` is the same in every delta.
 * @typedef {{ text: string, id: number | null, prompt_tokens: number, logprobs: TokenLogprob | null }} Delta
 */

/**
 * @typedef {object} Timings
 * @property {number} prompt_tokens
 * @property {number} cached_tokens of these, what the key/value cache held from the request before
 * @property {number} prompt_ms from the request to the first token
 * @property {number} completion_tokens
 * @property {number} completion_ms from the first token to the last
 * @property {number} tokens_per_second
 */

/**
 * A finished generation.
 * @typedef {object} Output
 * @property {number[]} prompt_ids
 * @property {number[]} ids
 * @property {string} text
 * @property {"stop" | "length"} finish_reason
 * @property {TokenLogprob[] | null} logprobs
 * @property {Timings} timings
 */

/**
 * One figure of a bench: the median of its samples, in `unit`, with the least and the most of them. `at` is a number of
 * tokens, of the prompt or before the decoded one, else 0. `limit` is what the adapter can do at most, as it was measured
 * beside it, and `ratio` how close to that it is.
 * @typedef {object} Figure
 * @property {"limit" | "kernel" | "merge" | "load" | "first token" | "prefill" | "decode" | "submits" | "dispatches" | "time" | "token"} kind
 * @property {string} name
 * @property {number} at
 * @property {number} value
 * @property {string} unit
 * @property {[number, number]} spread
 * @property {number} samples
 * @property {number | null} limit
 * @property {number | null} ratio
 */

/**
 * What a bench measured. `deviation` is that of the logits from the CPU backend's, of the largest; `walkBytes` is how much
 * a sample of a limit reads before it comes to the same bytes again; `notes` say what was left out and what to know,
 * `hostBytes` is the wasm memory of the worker.
 * @typedef {{ info: Info, deviation: number, figures: Figure[], walkBytes: number, notes: string[], hostBytes: number }} BenchReport
 */

/**
 * @typedef {{ type: "load", source: Source, options: EngineLoadOptions, name: string, cache: boolean,
 *   integrity: Record<string, string> | null }} LoadCall gives {@link Loaded}
 * @typedef {{ type: "generate", request: Request }} GenerateCall gives {@link Output}
 * @typedef {{ type: "replace", source: MergeSource }} ReplaceCall gives {@link MergeReport}
 * @typedef {{ type: "merge", source: Source, output: FileSystemDirectoryHandle | MessagePort, options: {
 *   backend: "auto" | "webgpu" | "cpu", f8: boolean, shardBytes: number | null, name: string } }} MergeCall a single model
 *   is copied, and called `name` in messages; gives {@link MergeReport}
 * @typedef {{ type: "inspect", source: PlainSource, options: EngineLoadOptions }} InspectCall gives {@link RawInspection}
 * @typedef {{ type: "outline", recipe: string }} OutlineCall gives {@link RecipeOutline}
 * @typedef {{ type: "memory" }} MemoryCall gives the bytes of wasm memory
 * @typedef {{ type: "logits" }} LogitsCall gives the Float32Array that a bench compares its own with
 * @typedef {{ type: "bench", expected: Float32Array, rounds: number, longest: number, quick: boolean }} BenchCall gives {@link BenchReport}
 * @typedef {{ type: "dispose" }} DisposeCall gives null
 * @typedef {LoadCall | ReplaceCall | GenerateCall | MergeCall | InspectCall | OutlineCall | MemoryCall | LogitsCall
 *   | BenchCall | DisposeCall} Call
 */

/**
 * @typedef {(Call & { id: number }) | { type: "abort", id: number }} ToWorker
 */

/**
 * @typedef {{ info: Info, merged: MergeReport | null }} Loaded
 */

/**
 * @typedef {{ type: "merging", id: number, progress: MergeProgress }} MergingEvent
 * @typedef {{ type: "tensor", id: number, tensor: TensorReport }} TensorEvent
 * @typedef {{ type: "progress", id: number, progress: Progress }} ProgressEvent
 * @typedef {{ type: "delta", id: number, delta: Delta }} DeltaEvent
 * @typedef {{ type: "benching", id: number, what: string }} BenchingEvent what a bench is about to do
 * @typedef {{ type: "keeping", id: number }} KeepingEvent a model is kept, the first of this origin
 * @typedef {{ type: "done", id: number, value: any }} Done
 * @typedef {{ type: "error", id: number, error: { code: import("./errors.js").ErrorCode, message: string },
 *   gpuLost?: boolean }} Failed `gpuLost`: it was the device that went, not the worker that broke
 * @typedef {{ type: "crashed", message: string, outOfMemory?: boolean }} Crashed
 * @typedef {ProgressEvent | MergingEvent | TensorEvent | DeltaEvent | KeepingEvent | BenchingEvent | Done | Failed | Crashed} FromWorker
 */
