//! tokenizer.json: text -> tokens -> text.

use std::sync::Arc;

use super::decode::{DecodeStream, Fused, byte_level, fused};
use super::error::TextError;
use super::pipeline::{self, Encoder, Pieces};

/// A byte-pair tokenizer of the Mistral and Llama families, SentencePiece-like
/// or byte-level. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

pub(super) struct Inner {
    encoder: Encoder,
    pub(super) pieces: Pieces,
}

impl Inner {
    /// The token as the decoder sees it.
    pub(super) fn piece(&self, id: u32) -> Option<String> {
        use tokenizers::Model as _;
        let added = self.encoder.added.piece(id).map(str::to_owned);
        added.or_else(|| self.encoder.model.id_to_token(id))
    }

    pub(super) fn is_special_piece(&self, piece: &str) -> bool {
        self.encoder.added.is_special(piece)
    }
}

impl Tokenizer {
    /// Reads tokenizer.json. Padding and truncation settings in it are ignored,
    /// as transformers does for a single text. A `Vec` is freed as soon as it has
    /// been parsed, before the tokenizer is built.
    ///
    /// # Errors
    /// [`TextError::BadJson`], [`TextError::UnsupportedTokenizer`] for anything
    /// but the byte-pair pipelines of these families, [`TextError::BadTokenizer`].
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, TextError> {
        let (encoder, pieces) = pipeline::load(json)?;
        Ok(Self { inner: Arc::new(Inner { encoder, pieces }) })
    }

    /// Encodes a text. `add_special` runs the file's post-processor: usually it
    /// puts the begin-of-sequence token in front.
    ///
    /// # Errors
    /// [`TextError::Encode`] if the vocabulary cannot express the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        let encoded = self.inner.encoder.encode(text, add_special);
        encoded.map_err(|e| TextError::Encode { reason: e.to_string() })
    }

    /// Encodes a rendered chat template. No special tokens are added: a template
    /// that wants a begin-of-sequence token writes it, and two would be a
    /// different prompt. This is what transformers' `apply_chat_template` does.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_chat(&self, rendered: &str) -> Result<Vec<u32>, TextError> {
        self.encode(rendered, false)
    }

    /// Decodes tokens as transformers does with `clean_up_tokenization_spaces`
    /// off (its default). Ids without a token have no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut stream = DecodeStream::new(Arc::clone(&self.inner), skip_special);
        let mut text = String::new();
        for &id in ids {
            text.push_str(&stream.push(id));
        }
        text.push_str(&stream.finish());
        text
    }

    /// A stream whose text is the decoding of its tokens alone, special tokens
    /// skipped: like transformers' decoding of the new tokens of a generation,
    /// it loses the space that SentencePiece puts before the first word.
    pub fn stream(&self) -> DecodeStream {
        DecodeStream::new(Arc::clone(&self.inner), true)
    }

    /// A stream that continues `context`: its text is what comes after the text
    /// of `context`, with its leading space. The last few tokens are enough as
    /// long as they have text.
    pub fn stream_after(&self, context: &[u32]) -> DecodeStream {
        self.stream().after(context)
    }

    /// The bytes of one token, whatever is around it: a byte token's byte, a
    /// special token's name. `None` if there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let piece = self.inner.piece(id)?;
        Some(match &self.inner.pieces {
            Pieces::ByteLevel => byte_level(&piece),
            Pieces::Fused { .. } => match fused(&self.inner.pieces, &piece, false) {
                Fused::Byte(byte) => vec![byte],
                Fused::Text(text) => text.into_bytes(),
            },
        })
    }

    /// The id of a token, given as it is written in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.encoder.token_to_id(token)
    }

    /// How many tokens there are, added ones included. A model's own vocabulary
    /// may be larger (padded).
    pub fn vocab_size(&self) -> usize {
        self.inner.encoder.vocab_size()
    }

    /// Whether this is a special token, which has no place in a text.
    pub fn id_is_special(&self, id: u32) -> bool {
        self.inner.piece(id).is_some_and(|piece| self.inner.is_special_piece(&piece))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}
