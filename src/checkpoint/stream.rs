//! Push parser for one safetensors file. It does no I/O: bytes are written into it as they
//! arrive, and come out as chunks of whole rows whose boundaries do not depend on the arrival.
//!
//! Memory: the header while it arrives, then at most one chunk. A piece that holds whole chunks
//! is passed on without copying.

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::header::{Header, LENGTH_BYTES, TensorInfo};
use crate::dtype::find_non_finite;

/// What the parser found, in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// The header is complete. Not sent by a parser that was given one.
    Header(&'a Arc<Header>),
    /// Some rows of a tensor. A tensor of no bytes has no chunk.
    Chunk(TensorChunk<'a>),
    /// A tensor is complete.
    End(&'a TensorInfo),
}

/// Whole rows of one tensor: [`TensorInfo::chunk_bytes`] of them, or what remains at its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TensorChunk<'a> {
    /// The tensor.
    pub tensor: &'a TensorInfo,
    /// Where in the tensor the chunk lies, in bytes: a multiple of its chunk size.
    pub offset: u64,
    /// The bytes, in the tensor's dtype.
    pub bytes: &'a [u8],
}

impl TensorChunk<'_> {
    /// Index of the chunk's first row.
    pub fn first_row(&self) -> u64 {
        self.offset.checked_div(self.tensor.row_bytes()).unwrap_or(0)
    }

    /// Refuses NaN and infinity, which WGSL may assume never to occur. `file` is for messages.
    ///
    /// # Errors
    /// [`CheckpointError::NotFinite`] with the first such element; [`CheckpointError::Values`] for
    /// a tensor that holds no floats.
    pub fn check_finite(&self, file: &str) -> Result<(), CheckpointError> {
        let TensorInfo { name, dtype, .. } = self.tensor;
        let (file, tensor, dtype) = (file.to_owned(), name.clone(), *dtype);
        match find_non_finite(dtype, self.bytes) {
            Ok(None) => Ok(()),
            Ok(Some(element)) => {
                let element = self.offset / dtype.size_bytes() + element as u64;
                Err(CheckpointError::NotFinite { file, tensor, dtype, element })
            }
            Err(source) => Err(CheckpointError::Values { file, tensor, source }),
        }
    }
}

/// The parser. Errors are final: after one, every call is [`CheckpointError::Poisoned`].
#[derive(Debug)]
pub struct StreamParser {
    file: String,
    state: State,
    /// The header, or the chunk that is being put together.
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Header,
    Data(Position),
    Poisoned,
}

/// How far the data is.
#[derive(Debug)]
struct Position {
    header: Arc<Header>,
    /// The tensor that is being read, and the one to stop at.
    tensors: Range<usize>,
    /// Bytes of it that were passed on.
    offset: u64,
}

impl StreamParser {
    /// A parser of a whole file. `file` is for messages.
    pub fn new(file: &str) -> StreamParser {
        StreamParser { file: file.to_owned(), state: State::Header, buffer: Vec::new() }
    }

    /// A parser of the data alone, from its first byte.
    ///
    /// # Errors
    /// [`CheckpointError::RowTooLong`].
    pub fn at_data(file: &str, header: Arc<Header>) -> Result<StreamParser, CheckpointError> {
        let all = 0..header.tensors.len();
        StreamParser::at_tensors(file, header, all)
    }

    /// A parser of neighbouring tensors, by index in the header, from the first byte of the first
    /// to the last byte of the last.
    ///
    /// # Errors
    /// [`CheckpointError::RowTooLong`], for any tensor of the file.
    pub fn at_tensors(
        file: &str,
        header: Arc<Header>,
        tensors: Range<usize>,
    ) -> Result<StreamParser, CheckpointError> {
        StreamParser::at_offset(file, header, tensors, 0)
    }

    /// [`StreamParser::at_tensors`] from a chunk boundary of the first tensor on, `offset` bytes
    /// behind its beginning.
    ///
    /// # Errors
    /// [`CheckpointError::RowTooLong`].
    pub fn at_offset(
        file: &str,
        header: Arc<Header>,
        tensors: Range<usize>,
        offset: u64,
    ) -> Result<StreamParser, CheckpointError> {
        header.check_rows(file)?;
        let tensors = tensors.start..tensors.end.min(header.tensors.len());
        let state = State::Data(Position { header, tensors, offset });
        Ok(StreamParser { file: file.to_owned(), state, buffer: Vec::new() })
    }

    /// Bytes that complete the chunk of which a part has come; 0 between two chunks.
    pub fn missing_bytes(&self) -> u64 {
        match &self.state {
            State::Data(Position { header, tensors, offset }) if !self.buffer.is_empty() => {
                let chunk = |t: &TensorInfo| t.chunk_bytes().min(t.bytes() - *offset);
                let size = header.tensors.get(tensors.start).map_or(0, chunk);
                size.saturating_sub(self.buffer.len() as u64)
            }
            _ => 0,
        }
    }

    /// The tensor of which the next chunk will be, by index in the header, and where in it that
    /// chunk lies in bytes.
    pub fn place(&self) -> (usize, u64) {
        match &self.state {
            State::Data(position) => (position.tensors.start, position.offset),
            _ => (0, 0),
        }
    }

    /// Takes the next bytes and passes what they complete to `sink`.
    ///
    /// # Errors
    /// What the header or the length of the data violates, and whatever `sink` returns.
    pub fn write<E: From<CheckpointError>>(
        &mut self,
        mut bytes: &[u8],
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut position = match std::mem::replace(&mut self.state, State::Poisoned) {
            State::Poisoned => return Err(self.poisoned().into()),
            State::Data(position) => position,
            State::Header => {
                let Some(header) = self.take_header(&mut bytes)? else {
                    self.state = State::Header;
                    return Ok(());
                };
                header.check_rows(&self.file)?;
                let header = Arc::new(header);
                sink(Event::Header(&header))?;
                let tensors = 0..header.tensors.len();
                Position { header, tensors, offset: 0 }
            }
        };
        self.take_data(&mut position, bytes, sink)?;
        self.state = State::Data(position);
        Ok(())
    }

    /// Says that all bytes were written. Without any, passes on what needs none.
    ///
    /// # Errors
    /// [`CheckpointError::HeaderTruncated`] or [`CheckpointError::Truncated`].
    pub fn end<E: From<CheckpointError>>(
        &mut self,
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        // Tensors of no bytes at the start of the data may still be waiting for a write.
        if matches!(self.state, State::Data(_)) {
            self.write(&[], sink)?;
        }
        let file = self.file.clone();
        let error = match std::mem::replace(&mut self.state, State::Poisoned) {
            State::Poisoned => self.poisoned(),
            State::Data(position) if position.tensors.is_empty() => return Ok(()),
            State::Data(Position { header, tensors, offset }) => {
                let begin = header.tensors.get(tensors.start).map_or(0, |tensor| tensor.begin);
                let bytes = header.data_start + begin + offset + self.buffer.len() as u64;
                CheckpointError::Truncated { file, bytes, expected: end_of(&header, &tensors) }
            }
            State::Header => {
                let prefix = self.buffer.first_chunk().copied();
                let json_bytes = prefix.map_or(Ok(0), |prefix| Header::json_bytes(&self.file, prefix))?;
                let (bytes, expected) = (self.buffer.len() as u64, LENGTH_BYTES + json_bytes);
                CheckpointError::HeaderTruncated { file, bytes, expected }
            }
        };
        Err(error.into())
    }

    fn poisoned(&self) -> CheckpointError {
        CheckpointError::Poisoned { file: self.file.clone() }
    }

    /// Moves bytes into the buffer until it holds `target` of them; whether it does.
    fn fill(&mut self, bytes: &mut &[u8], target: u64) -> bool {
        let missing = target.saturating_sub(self.buffer.len() as u64);
        // The smaller of the two fits usize, since one of them is a slice's length.
        let (taken, rest) = bytes.split_at(missing.min(bytes.len() as u64) as usize);
        // Not reserved ahead: a length that only claims to be large must not cost memory.
        self.buffer.extend_from_slice(taken);
        *bytes = rest;
        self.buffer.len() as u64 == target
    }

    fn take_header(&mut self, bytes: &mut &[u8]) -> Result<Option<Header>, CheckpointError> {
        if (self.buffer.len() as u64) < LENGTH_BYTES && !self.fill(bytes, LENGTH_BYTES) {
            return Ok(None);
        }
        let Some((prefix, _)) = self.buffer.split_first_chunk() else { return Ok(None) };
        let json_bytes = Header::json_bytes(&self.file, *prefix)?;
        if !self.fill(bytes, LENGTH_BYTES + json_bytes) {
            return Ok(None);
        }
        let buffer = std::mem::take(&mut self.buffer);
        let json = buffer.get(LENGTH_BYTES as usize..).unwrap_or_default();
        Header::parse(&self.file, json).map(Some)
    }

    fn take_data<E: From<CheckpointError>>(
        &mut self,
        position: &mut Position,
        mut bytes: &[u8],
        sink: &mut impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Position { header, tensors, offset } = position;
        while let Some(tensor) = header.tensors.get(tensors.clone()).and_then(<[TensorInfo]>::first) {
            let size = tensor.chunk_bytes().min(tensor.bytes() - *offset);
            if size == 0 {
                sink(Event::End(tensor))?;
                (tensors.start, *offset) = (tensors.start + 1, 0);
                continue;
            }
            let whole = usize::try_from(size).ok().and_then(|size| bytes.split_at_checked(size));
            if let (true, Some((chunk, rest))) = (self.buffer.is_empty(), whole) {
                sink(Event::Chunk(TensorChunk { tensor, offset: *offset, bytes: chunk }))?;
                bytes = rest;
                *offset += size;
                continue;
            }
            // A chunk is at most 16 MiB; growing step by step would end up at twice its size.
            self.buffer.reserve_exact(usize::try_from(size).unwrap_or(0).saturating_sub(self.buffer.len()));
            if self.fill(&mut bytes, size) {
                sink(Event::Chunk(TensorChunk { tensor, offset: *offset, bytes: &self.buffer }))?;
                self.buffer.clear();
            } else {
                return Ok(());
            }
            *offset += size;
        }
        if !bytes.is_empty() {
            let (file, expected) = (self.file.clone(), end_of(header, tensors));
            return Err(CheckpointError::TrailingBytes { file, expected }.into());
        }
        Ok(())
    }
}

/// Where in the file the last of these tensors ends, in bytes.
fn end_of(header: &Header, tensors: &Range<usize>) -> u64 {
    let last = tensors.end.checked_sub(1).and_then(|last| header.tensors.get(last));
    header.data_start + last.map_or(0, |last| last.end)
}
