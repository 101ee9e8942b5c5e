//! Files by hand, and sources that misbehave on request.

use std::cell::RefCell;
use std::ops::Range;

use bise::checkpoint::source::{MemorySource, MemoryStream};
use bise::checkpoint::{
    ByteSource, ByteStream, CheckpointError, Event, Opened, SourceError, StreamParser, TensorInfo,
};
use bise::dtype::Dtype;

/// A file of that header, as it is, and that data.
pub fn file(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), data].concat()
}

/// A file of named tensors, one after the other.
pub fn file_of(tensors: &[(&str, Dtype, &[u64], &[u8])]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let (begin, end) = (data.len(), data.len() + bytes.len());
        entries.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
        data.extend_from_slice(bytes);
    }
    file(&format!("{{{}}}", entries.join(",")), &data)
}

pub fn info(name: &str, dtype: Dtype, shape: &[u64]) -> TensorInfo {
    let end = shape.iter().product::<u64>() * dtype.size_bytes();
    TensorInfo { name: name.into(), dtype, shape: shape.to_vec(), begin: 0, end }
}

/// An event that outlives its parser.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Header(usize),
    Chunk(String, u64, Vec<u8>),
    End(String),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Seen {
        match event {
            Event::Header(header) => Seen::Header(header.tensors.len()),
            Event::Chunk(chunk) => Seen::Chunk(chunk.tensor.name.clone(), chunk.offset, chunk.bytes.to_vec()),
            Event::End(tensor) => Seen::End(tensor.name.clone()),
        }
    }
}

/// Everything that a parser says about a file in these pieces.
pub fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Seen>, CheckpointError> {
    let mut parser = StreamParser::new("x.safetensors");
    let mut seen = Vec::new();
    let mut sink = |event: Event<'_>| -> Result<(), CheckpointError> {
        seen.push(event.into());
        Ok(())
    };
    for piece in pieces {
        parser.write(piece, &mut sink)?;
    }
    parser.end(&mut sink)?;
    Ok(seen)
}

/// What is wrong with a file, and the message that says so.
pub fn failure(bytes: &[u8]) -> CheckpointError {
    let whole = events([bytes]).unwrap_err();
    // Byte by byte the same is found, though perhaps later.
    assert_eq!(events(bytes.chunks(1)).unwrap_err(), whole);
    whole
}

/// Files in memory behind a bad connection.
pub struct Faulty {
    pub inner: MemorySource,
    pub hide_length: bool,
    /// Streams end at this byte of a file.
    pub cut_at: Option<u64>,
    /// Opening this file fails so.
    pub fail: Option<(String, SourceError)>,
    /// What was asked for.
    pub log: RefCell<Vec<(String, Option<Range<u64>>)>>,
}

impl Faulty {
    pub fn new(files: &[(&str, Vec<u8>)]) -> Faulty {
        let inner = MemorySource::new(files.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())));
        Faulty { inner, hide_length: false, cut_at: None, fail: None, log: RefCell::default() }
    }
}

impl ByteSource for Faulty {
    type Stream = MemoryStream;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<MemoryStream>, SourceError> {
        self.log.borrow_mut().push((file.to_owned(), range.clone()));
        if let Some((_, error)) = self.fail.as_ref().filter(|(name, _)| name == file) {
            return Err(error.clone());
        }
        let range = match (range, self.cut_at) {
            (Some(range), Some(cut)) => Some(range.start..range.end.min(cut)),
            (range, _) => range,
        };
        let opened = self.inner.open(file, range).await?;
        Ok(Opened { file_bytes: opened.file_bytes.filter(|_| !self.hide_length), ..opened })
    }
}

/// Drains a stream.
pub async fn drain(mut stream: impl ByteStream) -> Result<Vec<Vec<u8>>, SourceError> {
    let mut pieces = Vec::new();
    while let Some(piece) = stream.next().await? {
        pieces.push(piece);
    }
    Ok(pieces)
}
