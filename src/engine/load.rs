//! From a source of bytes to a model on the device: everything small is read and checked
//! first, then memory is taken, then weights stream into it.

use futures_util::future::{join, join3};
use web_time::Instant;

use super::backend::Device;
use super::cached::Kept;
use super::fill::Target;
use super::tuning::{self, Tuning};
use super::{Engine, EngineError, LoadOptions, Loading, Phase, Progress, WeightMode};
use crate::checkpoint::foreign::found_instead;
use crate::checkpoint::source::read_all;
use crate::checkpoint::{ByteSource, Manifest, SourceError};
use crate::model::WeightPlan;
use crate::model::config::{CONFIG_FILE, GENERATION_FILE};
use crate::model::{Config, Decoder, GenerationConfig, KvCache, ModelError, Weights, decoder};
use crate::steps::{Steps, Store};
use crate::text::{ChatTemplate, SamplerOptions, TemplateFiles, TextError, Tokenizer};

/// Largest tokenizer.json that is read, bytes: that of Llama 3.2 has 17 MB. Reading one takes a page
/// about four times its size.
const MAX_TOKENIZER_BYTES: u64 = 20 << 20;

/// Largest of the other side files, bytes: they have some 100 KB at most.
const MAX_SIDE_FILE_BYTES: u64 = 2 << 20;

/// Context reserved unless the caller asks for another: what the models of this family are
/// mostly served at, and little memory.
const DEFAULT_CONTEXT: u32 = 4096;

/// Tokens in one pass are chosen by the device, but never fewer than this.
const MIN_CONTEXT: u32 = 2;

/// Everything of a checkpoint but its weights.
pub(super) struct SideFiles {
    pub(super) config: Config,
    pub(super) config_json: serde_json::Value,
    pub(super) generation: GenerationConfig,
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) template: Option<ChatTemplate>,
}

impl Engine {
    /// Loads a checkpoint.
    ///
    /// `cancelled` is asked for every piece of data; once it says yes, the load ends with
    /// [`EngineError::Aborted`] and everything it took is freed.
    ///
    /// # Errors
    /// What the source, the checkpoint or the device gets wrong.
    pub async fn load<S: ByteSource>(
        source: &S,
        options: &LoadOptions,
        progress: &mut dyn FnMut(Progress),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Engine, EngineError> {
        Engine::load_cached(source, &Kept::nothing(), None, options, progress, cancelled).await
    }

    /// Writes another model of the same architecture over this engine's weights, such as another
    /// merge: nothing is allocated or compiled. Conversations start anew.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] where it has other shapes, and what the source meets. An engine
    /// whose weights were written in part refuses requests until a call has succeeded.
    pub async fn replace_weights<S: ByteSource>(
        &mut self,
        source: &S,
        manifest: &Manifest,
        progress: &mut dyn FnMut(Progress),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), EngineError> {
        let mut report = |phase, done, total| progress(Progress { phase, done, total, note: None });
        report(Phase::Config, 0, 1);
        let side = read_side_files(source).await?;
        let plan = WeightPlan::new(&side.config, &side.config_json, manifest, self.plan.precision)?;
        if side.config != self.config || !plan.has_the_matrices_of(&self.plan) {
            let what = "this model has other layers, shapes or precisions than the loaded one; load it anew";
            return Err(EngineError::BadRequest(what.into()));
        }
        let total = manifest.total_bytes();
        let (backend, weights) = self.decoder.rewrite();
        backend.reserve_beside(source.memory_bytes())?;
        self.incomplete = true;
        let mut target = Target { plan: &plan, weights, backend };
        Kept::nothing()
            .fill(source, manifest, &mut target, cancelled, &mut |done| report(Phase::Weights, done, total))
            .await?;
        backend.flush().await?;
        self.incomplete = false;
        (self.generation, self.tokenizer, self.template) = (side.generation, side.tokenizer, side.template);
        Ok(())
    }

    /// [`Engine::load`] of a source whose tensors are known, as those of a merge are
    /// ([`Merge::manifest`](crate::merge::Merge::manifest)): it is merged straight into the device's
    /// memory, and nothing is stored.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub async fn load_known<S: ByteSource>(
        source: &S,
        manifest: Option<Manifest>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(Progress),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Engine, EngineError> {
        Engine::load_cached(source, &Kept::nothing(), manifest, options, progress, cancelled).await
    }

    /// [`Engine::load_known`] of a source that is kept while it is loaded, or was kept before: a
    /// [`CachedSource`](super::CachedSource) with the same `kept`. With a full cache nothing is asked of
    /// the source behind it.
    ///
    /// # Errors
    /// As [`Engine::load`]; [`CheckpointError::Integrity`](crate::checkpoint::CheckpointError::Integrity).
    pub async fn load_cached<S: ByteSource>(
        source: &S,
        kept: &Kept,
        manifest: Option<Manifest>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(Progress),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Engine, EngineError> {
        tuning::check(options)?;
        let mut report = |phase, done, total| {
            progress(Progress { phase, done, total, note: kept.report().note });
        };
        let stop = || if cancelled() { Err(EngineError::Aborted) } else { Ok(()) };

        let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
        let started = Instant::now();
        report(Phase::Adapter, 0, 1);
        let (mut device, mut reason) = Device::open(options).await?;
        stop()?;
        report(Phase::Config, 0, 1);
        let side = read_side_files(source).await?;
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => Manifest::read(source).await?,
        };
        stop()?;
        let plan_as = |precision| WeightPlan::new(&side.config, &side.config_json, &manifest, precision);
        let settle = |device: &Device| {
            let room = device.room();
            let (form, plan) = room.form(options.weights, kept, &plan_as)?;
            let shape = room.shape_for(&side.config, options)?;
            let reserved = device.reserve(&plan, &shape, source.memory_bytes());
            Ok::<_, EngineError>((form, plan, shape, reserved))
        };
        let (mut form, mut plan, mut shape, mut reserved) = settle(&device)?;
        if reserved.is_err() && options.lost && options.is_free() {
            // Larger than what the CPU holds: the graphics device may have come back.
            let options = LoadOptions { lost: false, ..options.clone() };
            (device, reason) = Device::open(&options).await?;
            (form, plan, shape, reserved) = settle(&device)?;
        }
        reserved?;
        let context = shape.context;
        let cache = KvCache::new(shape.cache_slots(), shape.window);
        let max_batch = shape.max_batch;
        let mut backend = device.backend(shape, options).await?;
        let weights = Weights::allocate(&plan, &mut backend)?;
        backend.allocated().await?;
        decoder::plan(&mut backend, &weights)?;
        let mut tuning = Tuning::new(&mut backend, options);
        if tuning.is_remembered() {
            decoder::plan(&mut backend, &weights)?;
        }
        // Browsers compile while the first bytes are on their way.
        backend.compile();
        let tuner = tuning.tuner(&mut backend).await;
        stop()?;

        let total = manifest.total_bytes();
        let streaming = Instant::now();
        let mut target = Target { plan: &plan, weights: &weights, backend: &mut backend };
        let mut on_bytes = |done| report(Phase::Weights, done, total);
        let filling = kept.fill(source, &manifest, &mut target, cancelled, &mut on_bytes);
        let timing = async { Some(tuner?.run().await) };
        let (filled, timed) = join(filling, timing).await;
        filled?;
        if tuning.take(&mut backend, timed) {
            decoder::plan(&mut backend, &weights)?;
            backend.compile();
        }
        // Before the last weights are waited for: those lie in the queue behind the shaders.
        let mut weights_ms = ms(streaming);
        backend.compiled(&mut |done, total| report(Phase::Shaders, done, total)).await?;
        let flushing = Instant::now();
        backend.flush().await?;
        weights_ms += ms(flushing);
        stop()?;
        Ok(Engine {
            loading: Loading { ms: ms(started), weights_ms, bytes: total },
            decoder: Decoder::new(backend, weights, cache, max_batch),
            config: side.config,
            generation: side.generation,
            tokenizer: side.tokenizer,
            template: side.template,
            context,
            weights: reported(form, &plan),
            kv_cache: options.kv_cache,
            plan,
            incomplete: false,
            requests: 0,
            cache: kept.report(),
            reason,
            tuning: tuning.report,
            sha256: kept.hashes(),
            host_tokens: 0,
        })
    }
}

/// The form of the weights in the end, which may be that of the checkpoint.
pub(super) fn reported(form: WeightMode, plan: &WeightPlan) -> WeightMode {
    if form.precision() == plan.stored_precision() { form } else { plan.stored_precision().into() }
}

/// The context to reserve: `wanted`, or as much as is usual, of what the model was made for and of
/// the positions that the device has `room` for in one buffer.
pub(super) fn context_length(config: &Config, wanted: Option<u32>, room: u32) -> Result<u32, EngineError> {
    let limit = config.max_positions.min(room);
    let context = wanted.unwrap_or(limit.min(DEFAULT_CONTEXT));
    if (MIN_CONTEXT..=limit).contains(&context) {
        return Ok(context);
    }
    let what = if context <= config.max_positions && room < config.max_positions {
        format!(
            "contextLength is {context}; this model takes up to {} positions, but the buffers of this device \
             hold the keys of {limit} at most: ask for no more, or use a device with larger limits",
            config.max_positions
        )
    } else {
        format!("contextLength is {context}; this model takes {MIN_CONTEXT} to {limit} positions")
    };
    Err(EngineError::BadRequest(what))
}

pub(super) async fn read_side_files<S: ByteSource>(source: &S) -> Result<SideFiles, EngineError> {
    let (config, generation, text) = join3(
        read_all(source, CONFIG_FILE, None, MAX_SIDE_FILE_BYTES),
        optional(source, GENERATION_FILE),
        read_text_files(source),
    )
    .await;
    // Without config.json there is no model, whatever else went wrong.
    let config_bytes = match config {
        Err(SourceError::NotFound { file }) => {
            let other = found_instead(source).await.map(EngineError::from);
            return Err(other.unwrap_or(EngineError::NoModel { file }));
        }
        bytes => bytes?,
    };
    let config = Config::parse(&config_bytes)?;
    // Parsed before, so this cannot fail.
    let config_json = serde_json::from_slice(&config_bytes).unwrap_or_default();
    let generation = match generation? {
        Some(json) => GenerationConfig::parse(&json)?,
        None => GenerationConfig::default(),
    };
    check_defaults(&generation)?;
    let (tokenizer, template) = text?;
    Ok(SideFiles { config, config_json, generation, tokenizer, template })
}

/// Refuses defaults that would make every request fail.
fn check_defaults(generation: &GenerationConfig) -> Result<(), ModelError> {
    let neutral = SamplerOptions::default();
    let options = SamplerOptions {
        temperature: generation.temperature.unwrap_or(neutral.temperature),
        top_p: generation.top_p.unwrap_or(neutral.top_p),
        min_p: generation.min_p.unwrap_or(neutral.min_p),
        repetition_penalty: generation.repetition_penalty.unwrap_or(neutral.repetition_penalty),
        ..neutral
    };
    let failed = |error: TextError| ModelError::BadFile { file: GENERATION_FILE, detail: error.to_string() };
    options.validate().map_err(failed)
}

/// Reads what a checkpoint has of tokenizer and chat template.
///
/// # Errors
/// [`EngineError::TextFile`] for malformed or unsupported ones.
pub(crate) async fn read_text_files<S: ByteSource>(
    source: &S,
) -> Result<(Option<Tokenizer>, Option<ChatTemplate>), EngineError> {
    let (tokenizer, template_files, special_tokens_map) =
        join3(read_tokenizer(source), read_template(source), optional(source, "special_tokens_map.json"))
            .await;
    let (tokenizer, [tokenizer_config, chat_template]) = (tokenizer?, template_files?);
    let special_tokens_map = special_tokens_map?;
    let template = ChatTemplate::from_files(TemplateFiles {
        tokenizer_config: tokenizer_config.as_deref(),
        chat_template: chat_template.as_deref(),
        special_tokens_map: special_tokens_map.as_deref(),
    })
    .map_err(EngineError::TextFile)?;
    Ok((tokenizer, template))
}

/// tokenizer_config.json, and the template of chat_template.jinja or chat_template.json.
async fn read_template<S: ByteSource>(source: &S) -> Result<[Option<Vec<u8>>; 2], EngineError> {
    let tokenizer_config = optional(source, "tokenizer_config.json").await?;
    // Where tokenizer_config.json has the template, the other files are not asked for: a static
    // host would answer with an error page each time.
    let complete = tokenizer_config.as_deref().is_some_and(|json| {
        let value: Option<serde_json::Value> = serde_json::from_slice(json).ok();
        value.is_some_and(|v| v.get("chat_template").is_some_and(|t| !t.is_null()))
    });
    if complete {
        return Ok([tokenizer_config, None]);
    }
    let mut chat_template = optional(source, "chat_template.jinja").await?;
    if chat_template.is_none()
        && let Some(json) = optional(source, "chat_template.json").await?
    {
        // Between the other two spellings, transformers wrote the template into a file of its own as JSON.
        let file = "chat_template.json".to_owned();
        let value: serde_json::Value = serde_json::from_slice(&json)
            .map_err(|error| SourceError::Io { file, detail: error.to_string() })?;
        chat_template = value.get("chat_template").and_then(|text| text.as_str()).map(|text| text.into());
    }
    Ok([tokenizer_config, chat_template])
}

async fn read_tokenizer<S: ByteSource>(source: &S) -> Result<Option<Tokenizer>, EngineError> {
    match optional_within(source, "tokenizer.json", MAX_TOKENIZER_BYTES).await? {
        Some(json) => Tokenizer::from_json(json).map(Some).map_err(EngineError::TextFile),
        None => Ok(None),
    }
}

async fn optional<S: ByteSource>(source: &S, file: &str) -> Result<Option<Vec<u8>>, EngineError> {
    optional_within(source, file, MAX_SIDE_FILE_BYTES).await
}

async fn optional_within<S: ByteSource>(
    source: &S,
    file: &str,
    limit_bytes: u64,
) -> Result<Option<Vec<u8>>, EngineError> {
    match read_all(source, file, None, limit_bytes).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(SourceError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Tokenizer of a directory that may hold nothing else.
///
/// # Errors
/// [`EngineError::BadRequest`] if there is no tokenizer.json.
pub async fn load_tokenizer<S: ByteSource>(source: &S) -> Result<Tokenizer, EngineError> {
    let missing = || EngineError::BadRequest("there is no tokenizer.json here".into());
    read_tokenizer(source).await?.ok_or_else(missing)
}
