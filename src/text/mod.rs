//! Tokens <-> text: the tokenizer, its streaming decoder, chat templates, the
//! sampler and stop strings. Nothing here knows a model or a device.

mod added;
mod components;
mod decode;
mod error;
mod jinja;
mod lists;
mod pipeline;
mod python;
mod regex;
mod sampler;
mod stop;
mod template;
mod tokenizer;

pub use decode::DecodeStream;
pub use error::TextError;
pub use sampler::{Sampler, SamplerOptions, check_logits, log_probs};
pub use stop::{StopMatcher, StopOutcome};
pub use template::{ChatTemplate, TemplateFiles};
pub use tokenizer::Tokenizer;
