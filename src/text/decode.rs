//! Tokens -> text, one token at a time.
//!
//! The text is that of transformers' `decode`: for SentencePiece-like
//! tokenizers a run of byte tokens is text if the whole run is valid UTF-8, and
//! otherwise one U+FFFD per byte. Hence a run is held back until it ends, which
//! is the price of never having to take anything back. `pending` shows what is
//! held. Byte-level tokenizers hold back an incomplete character only.

use std::sync::Arc;

use super::pipeline::Pieces;
use super::tokenizer::Inner;

/// Incremental decoder: what `push` and `finish` return, put together, is the
/// decoding of all pushed tokens. Constant work per token, amortised.
#[derive(Clone)]
pub struct DecodeStream {
    tokenizer: Arc<Inner>,
    skip_special: bool,
    /// Bytes not yet text: a run of byte tokens, or an incomplete character.
    held: Vec<u8>,
    /// How many more characters may be cut from the start of the text.
    strip_left: usize,
    /// Whether no piece has come yet.
    first: bool,
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Arc<Inner>, skip_special: bool) -> Self {
        let strip_left = match &tokenizer.pieces {
            Pieces::Fused { strip: Some((_, count)), .. } => *count,
            _ => 0,
        };
        Self { tokenizer, skip_special, held: Vec::new(), strip_left, first: true }
    }

    /// Takes the tokens before the stream into account without returning their
    /// text: what follows is then a continuation, and keeps its leading space.
    pub(super) fn after(mut self, context: &[u32]) -> Self {
        for &id in context {
            let _text_before = self.push(id);
        }
        // Whole characters of the context are text before the stream; the bytes
        // of an incomplete one belong to the character that the stream completes.
        let incomplete = match std::str::from_utf8(&self.held) {
            Ok(_) => 0,
            Err(e) if e.error_len().is_none() => self.held.len() - e.valid_up_to(),
            Err(_) => 0,
        };
        self.held.drain(..self.held.len() - incomplete);
        self
    }

    /// Adds a token; returns the text that is certain now, maybe none. Ids
    /// without a token (models pad their vocabulary) have no text.
    pub fn push(&mut self, id: u32) -> String {
        let tokenizer = Arc::clone(&self.tokenizer);
        let Some(piece) = tokenizer.piece(id) else { return String::new() };
        if self.skip_special && tokenizer.is_special_piece(&piece) {
            return String::new();
        }
        let first = std::mem::replace(&mut self.first, false);
        match &tokenizer.pieces {
            Pieces::ByteLevel => {
                self.held.extend(byte_level(&piece));
                self.take_characters()
            }
            Pieces::Fused { .. } => match fused(&tokenizer.pieces, &piece, first) {
                Fused::Byte(byte) => {
                    self.held.push(byte);
                    String::new()
                }
                Fused::Text(text) => {
                    let run = self.take_run();
                    self.cut_start(run + &text)
                }
            },
        }
    }

    /// What is held back and would be text if the stream ended now; empty while
    /// it ends in an incomplete character. Stop strings can be looked for here
    /// before the next token is computed.
    pub fn pending(&self) -> String {
        match std::str::from_utf8(&self.held) {
            Ok(text) => self.clone_start().cut_start(text.to_owned()),
            Err(_) => String::new(),
        }
    }

    /// The characters that are whole among what is held back: the next token's text begins behind
    /// them.
    pub fn held_characters(&self) -> String {
        let text = match std::str::from_utf8(&self.held) {
            Ok(text) => text.to_owned(),
            Err(e) if e.error_len().is_none() => {
                let whole = self.held.get(..e.valid_up_to()).unwrap_or_default();
                String::from_utf8_lossy(whole).into_owned()
            }
            Err(_) => "\u{FFFD}".repeat(self.held.len()),
        };
        self.clone_start().cut_start(text)
    }

    /// Ends the stream; returns what was held back.
    pub fn finish(mut self) -> String {
        match &self.tokenizer.pieces {
            Pieces::ByteLevel => String::from_utf8_lossy(&self.held).into_owned(),
            Pieces::Fused { .. } => {
                let run = self.take_run();
                self.cut_start(run)
            }
        }
    }

    /// A stream at the same place of the text that holds nothing.
    fn clone_start(&self) -> Self {
        Self {
            tokenizer: Arc::clone(&self.tokenizer),
            skip_special: self.skip_special,
            held: Vec::new(),
            strip_left: self.strip_left,
            first: self.first,
        }
    }

    /// The held run of byte tokens as text.
    fn take_run(&mut self) -> String {
        let run = std::mem::take(&mut self.held);
        String::from_utf8(run).unwrap_or_else(|e| "\u{FFFD}".repeat(e.as_bytes().len()))
    }

    /// The held bytes up to an incomplete character, with U+FFFD for what no
    /// further byte can complete, as `String::from_utf8_lossy` places it.
    fn take_characters(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.held.as_slice();
        let kept = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break 0;
                }
                Err(e) => {
                    let (valid, after) = rest.split_at(e.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(bad) = e.error_len() else { break after.len() };
                    text.push('\u{FFFD}');
                    rest = after.get(bad..).unwrap_or_default();
                }
            }
        };
        self.held.drain(..self.held.len() - kept);
        text
    }

    /// Cuts what the decoder strips from the start of the whole text.
    fn cut_start(&mut self, text: String) -> String {
        let Pieces::Fused { strip: Some((cut, _)), .. } = &self.tokenizer.pieces else { return text };
        let mut rest = text.as_str();
        while self.strip_left > 0 && !rest.is_empty() {
            match rest.strip_prefix(*cut) {
                Some(after) => {
                    rest = after;
                    self.strip_left -= 1;
                }
                None => self.strip_left = 0,
            }
        }
        if rest.len() == text.len() { text } else { rest.to_owned() }
    }
}

/// A SentencePiece-like piece.
pub(super) enum Fused {
    Byte(u8),
    Text(String),
}

pub(super) fn fused(pieces: &Pieces, piece: &str, first: bool) -> Fused {
    let Pieces::Fused { replace, byte_fallback, drop_in_first, .. } = pieces else {
        return Fused::Text(piece.to_owned());
    };
    let mut text = match drop_in_first {
        Some(mark) if first => piece.replace(*mark, ""),
        _ => piece.to_owned(),
    };
    for (from, to) in replace {
        text = text.replace(from.as_str(), to);
    }
    let hex = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>')).filter(|h| h.len() == 2);
    match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
        Some(byte) if *byte_fallback => Fused::Byte(byte),
        _ => Fused::Text(text),
    }
}

/// The bytes of a byte-level piece. A piece with any other character (an added
/// token) stands for itself.
pub(super) fn byte_level(piece: &str) -> Vec<u8> {
    piece.chars().map(alphabet_byte).collect::<Option<_>>().unwrap_or_else(|| piece.as_bytes().to_vec())
}

/// GPT-2's alphabet: printable Latin-1 stands for itself, the other 68 bytes
/// are numbered from U+0100 on, in order.
fn alphabet_byte(c: char) -> Option<u8> {
    let code = u32::from(c);
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The other way round: the character that stands for a byte.
pub(super) fn byte_character(byte: u8) -> char {
    let code = u32::from(byte);
    let code = match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => code,
        0x00..=0x20 => 0x100 + code,
        0x7F..=0xA0 => 0x121 + (code - 0x7F),
        _ => 0x143,
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}
