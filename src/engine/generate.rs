//! The token loop: prompt in batches, then sample, stream, check, decode, again.

use web_time::{Instant, SystemTime, UNIX_EPOCH};

use super::{
    Alternative, Delta, Engine, EngineError, FinishReason, Output, Prompt, Request, Timings, TokenLogprob,
};
use crate::steps::Steps;
use crate::steps::sampling::{Past, Sampled};
use crate::text::{
    DecodeStream, Sampler, SamplerOptions, StopMatcher, StopOutcome, TextError, Tokenizer, log_probs,
};

/// Most alternatives per token, as in OpenAI's API.
const MAX_LOGPROBS: u32 = 20;

/// A request, resolved against the checkpoint.
struct Plan {
    prompt: Vec<u32>,
    max_tokens: u32,
    eos: Vec<u32>,
    sampler: Sampler,
    stop: StopMatcher,
}

/// Who chooses the tokens.
enum Chooser {
    /// The sampler, from the logits of the latest pass.
    Host(Vec<f32>),
    /// The device: so many passes may be under way, and `left` be submitted.
    Device { ahead: usize, left: u32 },
}

/// What has been generated so far.
struct Progress {
    prompt_tokens: u32,
    ids: Vec<u32>,
    text: String,
    /// Length of the text that the stream gave, in UTF-16 code units; `text` may lack its end, where
    /// a stop string may have begun.
    decoded: usize,
    logprobs: Vec<TokenLogprob>,
    stream: Option<DecodeStream>,
    stop: StopMatcher,
}

impl Engine {
    /// Continues a prompt. `on_delta` hears every token as it comes; `cancelled` is asked before
    /// every pass, and the engine stays usable after it said yes.
    ///
    /// # Errors
    /// [`EngineError::BadRequest`] and [`EngineError::Text`] before anything runs;
    /// [`EngineError::Aborted`]; what the device reports.
    pub async fn generate(
        &mut self,
        request: &Request,
        on_delta: &mut dyn FnMut(&Delta),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Output, EngineError> {
        let output = self.answer(request, on_delta, cancelled).await;
        // What is under way beyond the end is thrown away; the device is at rest when this returns.
        while matches!(self.decoder.chosen().await, Ok(Some(_))) {}
        output
    }

    async fn answer(
        &mut self,
        request: &Request,
        on_delta: &mut dyn FnMut(&Delta),
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Output, EngineError> {
        let started = Instant::now();
        let Plan { prompt, max_tokens, eos, mut sampler, stop } = self.resolve(request)?;
        let mut progress = Progress {
            prompt_tokens: prompt.len() as u32,
            ids: Vec::new(),
            text: String::new(),
            decoded: 0,
            logprobs: Vec::new(),
            stream: self.tokenizer.as_ref().map(Tokenizer::stream),
            stop,
        };
        // A text that is drawn anew each time may build on what decode passes have cached; one that can be
        // asked for again, by its seed or without a draw, builds on what prompts have computed.
        let exact = request.seed.is_some() || sampler.rules().greedy == 1;
        let cached_tokens = self.decoder.start(&prompt, exact);
        let mut chooser = match self.start_on_device(request, &sampler, &prompt, &[])? {
            Some(ahead) => Chooser::Device { ahead, left: max_tokens - 1 },
            None => Chooser::Host(Vec::new()),
        };
        let last = self.prefill(prompt.get(cached_tokens as usize..).unwrap_or_default(), cancelled).await?;
        // A few tokens are faster as decoding computes them, where rounding may show.
        let as_prompt = exact || last.len() > self.decoder.backend_mut().short() as usize;
        match &mut chooser {
            Chooser::Host(logits) => {
                *logits = self.decoder.forward(last, as_prompt, true).await?.unwrap_or_default();
            }
            Chooser::Device { .. } => self.decoder.advance(last, as_prompt, sampler.next_draw())?,
        }
        let mut first_token = None;
        let finish_reason = loop {
            let id = match &mut chooser {
                Chooser::Host(logits) => sampler.sample(logits)?,
                Chooser::Device { ahead, left } => {
                    while *left > 0 && self.decoder.under_way() < *ahead {
                        self.decoder.advance(&[], false, sampler.next_draw())?;
                        *left -= 1;
                    }
                    self.next_choice().await?
                }
            };
            if first_token.is_none() && cancelled() {
                return Err(EngineError::Aborted);
            }
            first_token.get_or_insert_with(Instant::now);
            let logprobs = match (request.logprobs, &chooser) {
                (Some(top), Chooser::Host(logits)) => {
                    Some(self.token_logprob(logits, id, top, progress.offset())?)
                }
                _ => None,
            };
            let ended = eos.contains(&id);
            let stopped = progress.take(id, ended, logprobs, on_delta);
            if ended || stopped {
                break FinishReason::Stop;
            }
            if progress.ids.len() >= max_tokens as usize {
                break FinishReason::Length;
            }
            if cancelled() {
                return Err(EngineError::Aborted);
            }
            if let Chooser::Host(logits) = &mut chooser {
                match self.start_on_device(request, &sampler, &prompt, &progress.ids)? {
                    // What chooses there has been compiled meanwhile.
                    Some(ahead) => {
                        self.decoder.advance(&[id], false, sampler.next_draw())?;
                        chooser = Chooser::Device { ahead, left: max_tokens - progress.ids.len() as u32 - 1 };
                    }
                    None => *logits = self.decoder.forward(&[id], false, true).await?.unwrap_or_default(),
                }
            }
        };
        let finish_reason = if progress.finish(on_delta) { FinishReason::Stop } else { finish_reason };

        let now = Instant::now();
        let first_token = first_token.unwrap_or(now);
        let completion_ms = now.duration_since(first_token).as_secs_f64() * 1e3;
        let rest = progress.ids.len().saturating_sub(1) as f64;
        Ok(Output {
            timings: Timings {
                prompt_tokens: progress.prompt_tokens,
                cached_tokens,
                prompt_ms: first_token.duration_since(started).as_secs_f64() * 1e3,
                completion_tokens: progress.ids.len() as u32,
                completion_ms,
                tokens_per_second: if rest > 0.0 && completion_ms > 0.0 {
                    rest * 1e3 / completion_ms
                } else {
                    0.0
                },
            },
            prompt_ids: prompt,
            ids: progress.ids,
            text: progress.text,
            finish_reason,
            logprobs: request.logprobs.map(|_| progress.logprobs),
        })
    }

    /// Prepares the device to choose a request's further tokens; see [`Decoder::start_sampling`].
    ///
    /// [`Decoder::start_sampling`]: crate::model::Decoder::start_sampling
    fn start_on_device(
        &mut self,
        request: &Request,
        sampler: &Sampler,
        prompt: &[u32],
        output: &[u32],
    ) -> Result<Option<usize>, EngineError> {
        if request.logprobs.is_some() || output.len() < self.host_tokens {
            return Ok(None);
        }
        Ok(self.decoder.start_sampling(sampler.rules(), sampler.bias(), Past { prompt, output })?)
    }

    async fn next_choice(&mut self) -> Result<u32, EngineError> {
        let none = || EngineError::BadRequest("no token is under way".into());
        let Sampled { id, not_finite } = self.decoder.chosen().await?.ok_or_else(none)?;
        match not_finite {
            Some((id, value)) => Err(TextError::NonFiniteLogits { id, value }.into()),
            None => Ok(id),
        }
    }

    /// Runs what is new of a prompt in batches, but for the last of them, which is returned.
    async fn prefill<'p>(
        &mut self,
        mut new: &'p [u32],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<&'p [u32], EngineError> {
        let size = self.decoder.max_batch().max(1) as usize;
        loop {
            if cancelled() {
                return Err(EngineError::Aborted);
            }
            match new.split_at_checked(size) {
                Some((batch, rest)) if !rest.is_empty() => {
                    self.decoder.forward(batch, true, false).await?;
                    new = rest;
                }
                _ => return Ok(new),
            }
        }
    }

    /// Runs what is new of a prompt; logits of its last token.
    pub(super) async fn run_prompt(
        &mut self,
        new: &[u32],
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<f32>, EngineError> {
        let last = self.prefill(new, cancelled).await?;
        Ok(self.decoder.forward(last, true, true).await?.unwrap_or_default())
    }

    fn resolve(&mut self, request: &Request) -> Result<Plan, EngineError> {
        let prompt = self.prompt_ids(&request.prompt)?;
        let room = self.check_prompt(&prompt, 1)?;
        if request.max_tokens == Some(0) {
            return Err(EngineError::BadRequest("max_tokens must be at least 1".into()));
        }
        if let Some(top) = request.logprobs.filter(|&top| top > MAX_LOGPROBS) {
            let what =
                format!("{top} alternatives per token were asked for; at most {MAX_LOGPROBS} are given");
            return Err(EngineError::BadRequest(what));
        }
        if !request.stop.is_empty() {
            self.tokenizer()?;
        }
        if request.logprobs.is_some() {
            self.tokenizer()?;
        }
        let mut sampler = Sampler::new(self.sampler_options(request)?, self.config.vocab as usize)?;
        sampler.accept_prompt(&prompt)?;
        let eos = if request.ignore_eos {
            Vec::new()
        } else {
            self.generation.eos.clone().unwrap_or_else(|| self.config.eos.clone())
        };
        Ok(Plan {
            max_tokens: request.max_tokens.unwrap_or(u32::MAX).min(room),
            prompt,
            eos,
            sampler,
            stop: StopMatcher::new(&request.stop)?,
        })
    }

    fn prompt_ids(&self, prompt: &Prompt) -> Result<Vec<u32>, EngineError> {
        match prompt {
            Prompt::Ids(ids) => Ok(ids.clone()),
            Prompt::Text(text) => Ok(self.tokenizer()?.encode(text, true)?),
            Prompt::Messages(messages) => {
                let Some(template) = &self.template else {
                    let what = "this checkpoint has no chat template; use a plain prompt";
                    return Err(EngineError::BadRequest(what.into()));
                };
                if messages.is_empty() {
                    return Err(EngineError::BadRequest("messages is empty".into()));
                }
                let rendered = template.render(messages, true, unix_seconds())?;
                Ok(self.tokenizer()?.encode_chat(&rendered)?)
            }
        }
    }

    /// Checks ids and length of a prompt; returns how many tokens may follow it.
    pub(super) fn check_prompt(&self, ids: &[u32], needed: u32) -> Result<u32, EngineError> {
        let vocab = self.config.vocab;
        if self.incomplete {
            let what = "a merge into this engine did not finish; merge again, or load a model";
            return Err(EngineError::BadRequest(what.into()));
        }
        if ids.is_empty() {
            return Err(EngineError::BadRequest("the prompt has no tokens".into()));
        }
        if let Some(id) = ids.iter().find(|&&id| id >= vocab) {
            let what = format!("token {id} is not in the model's vocabulary of {vocab}");
            return Err(EngineError::BadRequest(what));
        }
        let room =
            u64::from(self.context).checked_sub(ids.len() as u64).filter(|&room| room >= u64::from(needed));
        match room {
            Some(room) => Ok(room as u32),
            None => Err(EngineError::BadRequest(format!(
                "the prompt has {} tokens and the context holds {}; shorten it or load with a larger \
                 contextLength (this model: up to {})",
                ids.len(),
                self.context,
                self.config.max_positions
            ))),
        }
    }

    fn sampler_options(&mut self, request: &Request) -> Result<SamplerOptions, EngineError> {
        let neutral = SamplerOptions::default();
        let defaults = &self.generation;
        let mut logit_bias = Vec::new();
        for (key, &bias) in &request.logit_bias {
            let id = key.parse::<u32>().ok().filter(|&id| id < self.config.vocab).ok_or_else(|| {
                EngineError::BadRequest(format!(
                    "logit_bias: {key:?} is not a token id below {}",
                    self.config.vocab
                ))
            })?;
            logit_bias.push((id, bias));
        }
        self.requests += 1;
        let options = SamplerOptions {
            temperature: request.temperature.or(defaults.temperature).unwrap_or(neutral.temperature),
            top_k: request.top_k.or(defaults.top_k).unwrap_or(neutral.top_k),
            top_p: request.top_p.or(defaults.top_p).unwrap_or(neutral.top_p),
            min_p: request.min_p.or(defaults.min_p).unwrap_or(neutral.min_p),
            repetition_penalty: request
                .repetition_penalty
                .or(defaults.repetition_penalty)
                .unwrap_or(neutral.repetition_penalty),
            frequency_penalty: request.frequency_penalty.unwrap_or(neutral.frequency_penalty),
            presence_penalty: request.presence_penalty.unwrap_or(neutral.presence_penalty),
            logit_bias,
            seed: request.seed.unwrap_or_else(|| unseeded(self.requests)),
        };
        options.validate()?;
        Ok(options)
    }

    fn token_logprob(
        &self,
        logits: &[f32],
        id: u32,
        top: u32,
        text_offset: usize,
    ) -> Result<TokenLogprob, EngineError> {
        let tokenizer = self.tokenizer()?;
        let (logprob, alternatives) = log_probs(logits, id, top as usize)?;
        let describe = |id: u32, logprob: f32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            let token = String::from_utf8_lossy(&bytes).into_owned();
            Alternative { id, token, bytes, logprob }
        };
        Ok(TokenLogprob {
            chosen: describe(id, logprob),
            top: alternatives.into_iter().map(|(id, logprob)| describe(id, logprob)).collect(),
            text_offset,
        })
    }
}

impl Progress {
    /// Where the next token's text begins, in UTF-16 code units.
    fn offset(&self) -> usize {
        self.decoded + self.stream.as_ref().map_or(0, |stream| utf16_length(&stream.held_characters()))
    }

    /// Adds a token; returns whether a stop string is complete.
    fn take(
        &mut self,
        id: u32,
        ended: bool,
        logprobs: Option<TokenLogprob>,
        on_delta: &mut dyn FnMut(&Delta),
    ) -> bool {
        self.ids.push(id);
        self.logprobs.extend(logprobs.clone());
        let piece = match &mut self.stream {
            Some(stream) if !ended => stream.push(id),
            _ => String::new(),
        };
        self.decoded += utf16_length(&piece);
        let mut outcome = self.stop.push(&piece);
        // A stop string may hide in text that the decoder still holds back.
        if !outcome.stopped
            && let Some(stream) = &self.stream
            && self.stop.would_stop(&stream.pending())
        {
            let held = self.stop.push(&stream.pending());
            outcome = StopOutcome { text: outcome.text + &held.text, stopped: held.stopped };
        }
        self.text.push_str(&outcome.text);
        on_delta(&Delta { text: outcome.text, id: Some(id), prompt_tokens: self.prompt_tokens, logprobs });
        outcome.stopped
    }

    /// Passes on what was held back for a character or a stop string that did not come; returns
    /// whether that text held a stop string itself.
    fn finish(&mut self, on_delta: &mut dyn FnMut(&Delta)) -> bool {
        let held = self.stream.take().map(DecodeStream::finish).unwrap_or_default();
        let StopOutcome { mut text, stopped } = self.stop.push(&held);
        text.push_str(&std::mem::take(&mut self.stop).finish());
        if !text.is_empty() {
            self.text.push_str(&text);
            on_delta(&Delta { text, id: None, prompt_tokens: self.prompt_tokens, logprobs: None });
        }
        stopped
    }
}

fn utf16_length(text: &str) -> usize {
    text.encode_utf16().count()
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX))
}

/// A seed for a request that gives none: unlike the last, and unlike another engine's.
fn unseeded(request: u64) -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |duration| duration.as_nanos() as u64);
    nanos ^ request.rotate_left(48)
}
