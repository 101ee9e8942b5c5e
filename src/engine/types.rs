//! What goes into the engine and what comes out: plain data, the same for the
//! browser and the command line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cpu::Turn;
use crate::gpu::{GpuOptions, Told};
use crate::model::Precision;
pub use crate::steps::CacheForm;

/// How weights are stored on the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightMode {
    /// Every tensor in the checkpoint's own precision.
    Checkpoint,
    /// [`WeightMode::F8`] on WebGPU, [`WeightMode::I8`] on the CPU.
    #[default]
    Auto,
    /// Linear weights as F8_E4M3 with one scale per output row.
    F8,
    /// Linear weights as I8 with one scale per 128 columns where the checkpoint has them wider than FP8;
    /// on the CPU alone.
    I8,
}

impl WeightMode {
    pub(super) fn precision(self) -> Precision {
        match self {
            WeightMode::Checkpoint => Precision::Checkpoint,
            WeightMode::Auto | WeightMode::F8 => Precision::F8,
            WeightMode::I8 => Precision::I8,
        }
    }
}

impl From<Precision> for WeightMode {
    fn from(precision: Precision) -> WeightMode {
        match precision {
            Precision::Checkpoint => WeightMode::Checkpoint,
            Precision::F8 => WeightMode::F8,
            Precision::I8 => WeightMode::I8,
        }
    }
}

/// Which backend computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// WebGPU where there is an adapter that is hardware or was named, else the CPU.
    #[default]
    Auto,
    /// WebGPU, or an error.
    Webgpu,
    /// The CPU, in this thread.
    Cpu,
}

/// Options of a load.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct LoadOptions {
    /// How to store weights.
    pub weights: WeightMode,
    /// Positions to reserve key/value cache for; default: the model's own limit, at most 4096.
    pub context_length: Option<u32>,
    /// How to store keys and values.
    pub kv_cache: CacheForm,
    /// Where to compute.
    pub backend: BackendChoice,
    /// Whether to time on the device how it computes fastest, while weights stream: absent, on GPUs; `true`,
    /// also on software adapters, where it delays the first token, and an error with [`BackendChoice::Cpu`].
    pub autotune: Option<bool>,
    /// What earlier loads have chosen, as JSON: of their [`TuningReport`]s the choices, by the keys. Anything else
    /// is ignored.
    pub tunings: String,
    /// What timing may take, milliseconds, if not half a second. For tests.
    pub tuning_ms: Option<u32>,
    /// The device to open.
    pub gpu: GpuOptions,
    /// Whether the last device was lost: left the choice, the CPU is taken, if it holds the model.
    pub lost: bool,
    /// On the CPU, what lets others in this thread have their turn after every pass.
    #[serde(skip)]
    pub turn: Option<Turn>,
}

impl LoadOptions {
    /// Whether where to compute is left to the engine: an adapter that is named is asked for.
    pub(super) fn is_free(&self) -> bool {
        self.backend == BackendChoice::Auto && self.gpu.adapter.is_none()
    }

    /// Why the CPU is taken before any adapter is looked at, where the choice is left to the engine.
    pub(super) fn why_cpu(&self) -> Option<&'static str> {
        match self {
            _ if !self.is_free() => None,
            LoadOptions { lost: true, .. } => Some("the graphics device was lost"),
            LoadOptions { weights: WeightMode::I8, .. } => {
                Some("weights as 8-bit integers are computed with there alone")
            }
            LoadOptions { gpu: GpuOptions { told: Told { insecure: true, .. }, .. }, .. } => {
                Some("browsers offer WebGPU on pages by https and from localhost only")
            }
            _ => None,
        }
    }
}

/// How far a load is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Units done in this phase: bytes for `weights`, pipelines for `shaders`.
    pub done: u64,
    /// Units in all, once known; else 0.
    pub total: u64,
    /// What the visitor should know: why the model is not kept, for example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The phases of a load, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Requesting the adapter and device.
    Adapter,
    /// Reading config, tokenizer and shard headers.
    Config,
    /// Streaming weights.
    Weights,
    /// Compiling shaders.
    Shaders,
}

/// A chat message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// `system`, `user` or `assistant`; the template decides.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What to continue.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Prompt {
    /// Chat messages, rendered with the checkpoint's template.
    Messages(Vec<Message>),
    /// Text, encoded with the tokenizer's own special tokens.
    Text(String),
    /// Token ids, taken as they are.
    Ids(Vec<u32>),
}

/// One generation request. Absent numbers mean: the checkpoint's
/// generation_config.json, else the neutral value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What to continue: `{messages: [...]}`, `{text: "..."}` or `{ids: [...]}`.
    pub prompt: Prompt,
    /// 0 is greedy; at least 0.
    #[serde(default)]
    pub temperature: Option<f32>,
    /// Keep the smallest set of tokens with at least this probability, (0, 1].
    #[serde(default)]
    pub top_p: Option<f32>,
    /// Keep this many tokens; 0: all.
    #[serde(default)]
    pub top_k: Option<u32>,
    /// Drop tokens below this share of the best one's probability, [0, 1].
    #[serde(default)]
    pub min_p: Option<f32>,
    /// Tokens to generate at most; default: what the context holds.
    #[serde(default)]
    pub max_tokens: Option<u32>,
    /// Strings that end the text; they are not part of it.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Seed of the draw; absent: a random one.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Added to the logits of these token ids (keys are decimal ids), [-100, 100].
    #[serde(default)]
    pub logit_bias: BTreeMap<String, f32>,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; above 0.
    #[serde(default)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted per occurrence in the output, [-2, 2].
    #[serde(default)]
    pub frequency_penalty: Option<f32>,
    /// Subtracted once if it occurs in the output, [-2, 2].
    #[serde(default)]
    pub presence_penalty: Option<f32>,
    /// Go on after an end-of-sequence token.
    #[serde(default)]
    pub ignore_eos: bool,
    /// Report log-probabilities with this many alternatives per token (0: the token's own only), at most 20.
    #[serde(default)]
    pub logprobs: Option<u32>,
}

/// Log-probability of one token under the model's own distribution (before temperature and cuts).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alternative {
    /// Token id.
    pub id: u32,
    /// The token's text, with U+FFFD where it is only part of a character.
    pub token: String,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// A generated token with its alternatives.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// The chosen token.
    #[serde(flatten)]
    pub chosen: Alternative,
    /// The likeliest tokens, likeliest first.
    pub top: Vec<Alternative>,
    /// Where its text begins in the generated text, in UTF-16 code units as JavaScript counts: a
    /// character counts once its last byte is there.
    pub text_offset: usize,
}

/// What one step added to the text. `text` may be empty while a character or a
/// possible stop string is incomplete.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Delta {
    /// New text.
    pub text: String,
    /// The generated token's id; `None` for text that was held back to the end.
    pub id: Option<u32>,
    /// Tokens of the prompt, the same in every delta: what came before the first of them.
    pub prompt_tokens: u32,
    /// Only if asked for.
    pub logprobs: Option<TokenLogprob>,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timings {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens that the key/value cache held from the request before.
    pub cached_tokens: u32,
    /// From the request to the first token, milliseconds.
    pub prompt_ms: f64,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// From the first token to the last, milliseconds.
    pub completion_ms: f64,
    /// Tokens after the first, per second between them; 0 where there was one or none.
    pub tokens_per_second: f64,
}

/// A finished generation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Output {
    /// The prompt as tokens.
    pub prompt_ids: Vec<u32>,
    /// The generated tokens, a final end-of-sequence token included.
    pub ids: Vec<u32>,
    /// Their text, without end-of-sequence token and stop string.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// One per generated token, only if asked for.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Where the time went.
    pub timings: Timings,
}

/// The adapter, as far as it says.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterInfo {
    /// Name or description.
    pub name: String,
    /// Driver, where known.
    pub driver: String,
    /// Whether it is a software adapter.
    pub software: bool,
    /// Largest storage binding in bytes: larger tensors are split.
    pub max_binding_bytes: u64,
    /// Which FP8 decoder is in use, of those that pass their test: `fast`, `products` (SwiftShader) or `safe`.
    pub fp8_decoder: String,
    /// Of a matrix-vector product, the threads of a workgroup and those that share a row, at most; on the CPU
    /// none.
    pub threads: Option<[u32; 2]>,
    /// Threads whose sums meet by exchange within a subgroup, at most, in a decoded token's products; 0: none do.
    pub subgroup: u32,
}

/// Bytes on the device, by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Weights and their scales.
    pub weights: u64,
    /// Key/value cache.
    pub kv_cache: u64,
    /// Activations, tables and staging.
    pub activations: u64,
    /// All of them.
    pub total: u64,
}

/// What is loaded.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// `model_type` of config.json.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Positions a conversation may take here.
    pub context_length: u32,
    /// Positions the model was made for.
    pub max_context_length: u32,
    /// Sliding window, if any.
    pub sliding_window: Option<u32>,
    /// Layers.
    pub layers: u32,
    /// Vocabulary size.
    pub vocab: u32,
    /// How weights are stored.
    pub weights: WeightMode,
    /// How keys and values are stored.
    pub kv_cache: CacheForm,
    /// `webgpu` or `cpu`.
    pub backend: String,
    /// Why, where the choice was left to the engine.
    pub backend_reason: Option<String>,
    /// The adapter.
    pub adapter: AdapterInfo,
    /// How the kernels were chosen.
    pub tuning: TuningReport,
    /// Device memory.
    pub memory: Memory,
    /// Whether the checkpoint has a chat template.
    pub chat: bool,
    /// Whether the checkpoint has a tokenizer.
    pub tokenizer: bool,
    /// What became of the cache.
    pub cache: CacheReport,
    /// SHA-256 of the weight files, by name, as far as they were hashed: what the option `integrity`
    /// takes.
    pub sha256: BTreeMap<String, String>,
}

/// How a load came to its choice of kernels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TuningReport {
    /// What the choice rests on.
    pub state: TuningState,
    /// How much was measured, or why nothing was.
    pub note: Option<String>,
    /// What it holds for: this version, the adapter, the shapes. Empty where nothing is to be timed.
    pub key: String,
    /// The choice, as [`LoadOptions::tunings`] takes it: threads of a matrix-vector product's workgroup and of a
    /// row; of a matrix-matrix product's tile the threads along rows and tokens, rows and tokens of a thread, and
    /// depth; 1 for the fast decoder of weights where it is exact; 1 for sums within subgroups where there are such;
    /// most tokens of a prompt's end that are computed by matrix-vector products, where it need not be exact to the
    /// bit. Empty on the CPU.
    pub choice: Vec<u32>,
}

/// What a choice of kernels rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TuningState {
    /// Nothing: it is the usual one for this kind of device.
    Usual,
    /// Measurements of an earlier load.
    Remembered,
    /// Measurements of this load.
    Timed,
}

/// What a load had from the cache, or left there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CacheReport {
    /// What was done.
    pub state: CacheState,
    /// Why it is off, where it was meant to be on.
    pub note: Option<String>,
}

/// What was done with the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheState {
    /// Nothing: the model is not kept.
    Off,
    /// All weights came from the source, and are kept now.
    Stored,
    /// Some were kept by a load that was interrupted.
    Resumed,
    /// All were kept.
    Loaded,
}
