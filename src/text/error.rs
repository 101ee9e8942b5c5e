//! What can go wrong between tokens and text.

use thiserror::Error;

/// Errors of the text floor.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum TextError {
    /// A file is not the JSON it should be.
    #[error("{file}: {reason}")]
    BadJson {
        /// Which file.
        file: &'static str,
        /// What the parser says, with line and column where it knows them.
        reason: String,
    },
    /// tokenizer.json asks for something that is not implemented.
    #[error("tokenizer.json: {part} {name:?} is not supported")]
    UnsupportedTokenizer {
        /// Which part of the file: `model`, `normalizer`, `decoder`, ...
        part: &'static str,
        /// The value found there.
        name: String,
    },
    /// tokenizer.json contradicts itself.
    #[error("tokenizer.json: {reason}")]
    BadTokenizer {
        /// What contradicts what.
        reason: String,
    },
    /// The tokenizer could not encode a text.
    #[error("cannot encode the text: {reason}")]
    Encode {
        /// What the tokenizer says.
        reason: String,
    },
    /// The chat template does not parse, or failed while rendering.
    #[error("chat template: {reason}")]
    Template {
        /// What the template engine says, with the line.
        reason: String,
    },
    /// The chat template refused the messages with `raise_exception`.
    #[error("the chat template refuses these messages: {message}")]
    TemplateRaised {
        /// The template's own words.
        message: String,
    },
    /// The chat template did more work than any real one does.
    #[error(
        "chat template: stopped after {steps} steps; the conversation is too long for it, or it has no end"
    )]
    TemplateTooLong {
        /// The limit that was reached.
        steps: u64,
    },
    /// A sampling option is out of its range.
    #[error("{option} must be {range}, not {value}")]
    BadOption {
        /// Name of the option as in the request.
        option: &'static str,
        /// The range, in words.
        range: &'static str,
        /// What was given.
        value: f64,
    },
    /// A token id is not in the vocabulary.
    #[error("token {id} is not in the vocabulary of {vocab}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// The logits are not one per token.
    #[error("{got} logits for a vocabulary of {vocab}")]
    LogitCount {
        /// How many came.
        got: usize,
        /// How many there should be.
        vocab: usize,
    },
    /// A logit is NaN or infinite.
    #[error("logit of token {id} is {value}: the weights are damaged, or too large for f32")]
    NonFiniteLogits {
        /// The first such token.
        id: u32,
        /// Its logit.
        value: f32,
    },
    /// A stop string is empty.
    #[error("a stop string must not be empty")]
    EmptyStop,
}
