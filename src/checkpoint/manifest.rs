//! All tensors of a checkpoint, known before the first weight is fetched, and the streams that
//! then fetch them.
//!
//! ```text
//! let manifest = Manifest::read(&source).await?;
//! for shard in &manifest.shards {
//!     let mut stream = ShardStream::open(&source, shard, shard.all(), &cancelled).await?;
//!     let mut parser = stream.parser()?;
//!     while let Some(piece) = stream.next_piece().await? {
//!         parser.write(&piece, &mut sink)?;
//!         store.flush().await?;                // back-pressure: nothing is fetched meanwhile
//!     }
//!     parser.end(&mut sink)?;
//! }
//! ```

use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use crate::checkpoint::error::{CheckpointError, HEADER_LIMIT_BYTES, TENSOR_LIMIT};
use crate::checkpoint::foreign::no_weights;
use crate::checkpoint::hash::FileHash;
use crate::checkpoint::header::{Header, LENGTH_BYTES, TensorInfo};
use crate::checkpoint::index::{INDEX_FILE, Index, SINGLE_FILE};
use crate::checkpoint::source::{ByteSource, ByteStream, Opened, SourceError, append, collect, read_all};
use crate::checkpoint::stream::{Event, StreamParser};
use crate::dtype::widen;

/// Files whose headers are fetched at the same time.
const REQUESTS_AT_ONCE: usize = 4;
/// Bytes fetched to begin with: most headers are shorter.
const FIRST_BYTES: u64 = 64 << 10;
/// Largest index that is read; that of a model of 400 billion parameters has about 100 KiB.
const INDEX_LIMIT_BYTES: u64 = 16 << 20;
/// Data that came along with the headers and is kept, in bytes over all shards.
const HELD_LIMIT_BYTES: usize = 4 << 20;

/// One file of a checkpoint.
#[derive(Clone, Debug)]
pub struct Shard {
    /// File name.
    pub file: String,
    /// Its tensors.
    pub header: Arc<Header>,
    /// The first bytes of its data, which came along with the header.
    held: Arc<[u8]>,
    /// Whether the source knew the file's length, which then matches the header.
    length_known: bool,
    /// As [`Opened::validator`] when the header was read.
    pub validator: Option<String>,
    /// As [`Opened::linked_sha256`].
    pub linked_sha256: Option<String>,
    /// The hash of what lies before the data; `None` for a file that is still to be made.
    pub head_hash: Option<FileHash>,
}

impl Shard {
    /// All of its tensors, as indices for [`ShardStream::open`].
    pub fn all(&self) -> Range<usize> {
        0..self.header.tensors.len()
    }
}

/// A checkpoint's tensors, shard by shard.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The files, by name.
    pub shards: Vec<Shard>,
    /// Tensor name to shard and position there.
    places: HashMap<String, (usize, usize)>,
}

impl Manifest {
    /// Reads the index, if there is one, and the header of every shard. Fetches no data beyond
    /// what the first request of 64 KiB per shard brings along; that is kept, not fetched again.
    ///
    /// # Errors
    /// What the source meets; any violation of the format; files of the wrong length, where the
    /// source knows it; an index that does not match the shards.
    pub async fn read(source: &impl ByteSource) -> Result<Manifest, CheckpointError> {
        let index = match read_all(source, INDEX_FILE, None, INDEX_LIMIT_BYTES).await {
            Ok(json) => Some(Index::parse(&json)?),
            Err(SourceError::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let files = index.as_ref().map_or(vec![SINGLE_FILE], Index::shards);
        let shards = match read_shards(source, &files).await {
            Err(CheckpointError::Source(SourceError::NotFound { .. })) if index.is_none() => {
                return Err(no_weights(source).await);
            }
            shards => shards?,
        };
        if shards.iter().all(|shard| shard.header.tensors.is_empty()) {
            return Err(CheckpointError::NoWeights {
                looked_for: format!("tensors in {} files", shards.len()),
            });
        }
        let manifest = Manifest { places: places(&shards)?, shards };
        if let Some(index) = &index {
            manifest.check_index(index)?;
        }
        Ok(manifest)
    }

    /// The manifest of files whose headers are known, such as those of a checkpoint that is still
    /// to be made.
    ///
    /// # Errors
    /// [`CheckpointError::DuplicateTensor`].
    pub fn of(files: impl IntoIterator<Item = (String, Header)>) -> Result<Manifest, CheckpointError> {
        let shard = |(file, header)| Shard {
            file,
            header: Arc::new(header),
            held: Arc::default(),
            length_known: true,
            validator: None,
            linked_sha256: None,
            head_hash: None,
        };
        let shards: Vec<Shard> = files.into_iter().map(shard).collect();
        Ok(Manifest { places: places(&shards)?, shards })
    }

    /// Every tensor with its shard, in the order in which streaming meets them.
    pub fn tensors(&self) -> impl Iterator<Item = (&Shard, &TensorInfo)> {
        self.shards.iter().flat_map(|shard| shard.header.tensors.iter().map(move |info| (shard, info)))
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<(&Shard, &TensorInfo)> {
        let (shard, position) = self.find(name)?;
        Some((shard, shard.header.tensors.get(position)?))
    }

    /// The tensor of that name as shard and position there, for [`ShardStream::open`].
    pub fn find(&self, name: &str) -> Option<(&Shard, usize)> {
        let (shard, position) = self.places.get(name)?;
        Some((self.shards.get(*shard)?, *position))
    }

    /// Size of all tensors together, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.header.data_bytes()).sum()
    }

    /// Reads one tensor as f32: meant for scales and norms, which are needed as a whole.
    ///
    /// # Errors
    /// [`CheckpointError::UnknownTensor`]; [`SourceError::TooLarge`] beyond `limit_bytes`; a NaN or
    /// an infinity; a dtype that holds no floats; what [`ShardStream`] reports.
    pub async fn read_f32<S: ByteSource>(
        &self,
        source: &S,
        name: &str,
        limit_bytes: u64,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Vec<f32>, CheckpointError> {
        let unknown = || CheckpointError::UnknownTensor { tensor: name.to_owned() };
        let (shard, position) = self.find(name).ok_or_else(unknown)?;
        let (file, tensor) = (&shard.file, name.to_owned());
        let (_, info) = self.get(name).ok_or_else(unknown)?;
        if info.bytes() > limit_bytes {
            let (file, bytes) = (format!("{file}: {tensor}"), info.bytes());
            return Err(SourceError::TooLarge { file, bytes, limit: limit_bytes }.into());
        }
        let mut values = Vec::new();
        let mut stream = ShardStream::open(source, shard, position..position + 1, cancelled).await?;
        let mut parser = stream.parser()?;
        let mut sink = |event: Event<'_>| {
            let Event::Chunk(chunk) = event else { return Ok(()) };
            chunk.check_finite(file)?;
            let failed =
                |source| CheckpointError::Values { file: file.clone(), tensor: tensor.clone(), source };
            widen(info.dtype, chunk.bytes, &mut values).map_err(failed)
        };
        while let Some(piece) = stream.next_piece().await? {
            parser.write(&piece, &mut sink)?;
        }
        parser.end(&mut sink)?;
        Ok(values)
    }

    fn check_index(&self, index: &Index) -> Result<(), CheckpointError> {
        for (tensor, listed) in &index.weight_map {
            let (tensor, listed) = (tensor.clone(), listed.clone());
            match self.get(&tensor) {
                Some((shard, _)) if shard.file == listed => {}
                Some((shard, _)) => {
                    let found = shard.file.clone();
                    return Err(CheckpointError::WrongShard { tensor, listed, found });
                }
                None => return Err(CheckpointError::MissingTensor { tensor, shard: listed }),
            }
        }
        let unlisted = self.tensors().find(|(_, info)| !index.weight_map.contains_key(&info.name));
        match unlisted {
            None => Ok(()),
            Some((shard, info)) => {
                Err(CheckpointError::Unlisted { tensor: info.name.clone(), shard: shard.file.clone() })
            }
        }
    }
}

/// What headers may still take: a checkpoint's files are not trusted.
struct Room {
    header_bytes: Cell<u64>,
    tensors: Cell<usize>,
}

impl Room {
    fn new() -> Room {
        Room { header_bytes: Cell::new(HEADER_LIMIT_BYTES), tensors: Cell::new(TENSOR_LIMIT) }
    }

    fn take_header(&self, file: &str, bytes: u64) -> Result<(), CheckpointError> {
        let left = self.header_bytes.get().checked_sub(bytes);
        let too_large = || CheckpointError::HeadersTooLarge { file: file.to_owned(), bytes };
        self.header_bytes.set(left.ok_or_else(too_large)?);
        Ok(())
    }

    fn take_tensors(&self, file: &str, tensors: usize) -> Result<(), CheckpointError> {
        let left = self.tensors.get().checked_sub(tensors);
        let too_many = || CheckpointError::TooManyTensors { file: file.to_owned(), tensors };
        self.tensors.set(left.ok_or_else(too_many)?);
        Ok(())
    }
}

/// Reads the headers of all files, several at a time.
async fn read_shards(source: &impl ByteSource, files: &[&str]) -> Result<Vec<Shard>, CheckpointError> {
    let room = Room::new();
    let reads = files.iter().map(|file| read_shard(source, file, &room));
    let mut reads = stream::iter(reads).buffered(REQUESTS_AT_ONCE);
    let (mut shards, mut held_bytes) = (Vec::with_capacity(files.len()), 0);
    while let Some(shard) = reads.next().await {
        let mut shard: Shard = shard?;
        held_bytes += shard.held.len();
        if held_bytes > HELD_LIMIT_BYTES {
            // Rather fetched twice than held for thousands of shards.
            held_bytes -= std::mem::take(&mut shard.held).len();
        }
        shards.push(shard);
    }
    Ok(shards)
}

fn places(shards: &[Shard]) -> Result<HashMap<String, (usize, usize)>, CheckpointError> {
    let mut places: HashMap<String, (usize, usize)> = HashMap::new();
    for (number, shard) in shards.iter().enumerate() {
        for (position, info) in shard.header.tensors.iter().enumerate() {
            if let Some((first, _)) = places.insert(info.name.clone(), (number, position)) {
                return Err(CheckpointError::DuplicateTensor {
                    tensor: info.name.clone(),
                    first: shards.get(first).map_or_else(String::new, |shard| shard.file.clone()),
                    second: shard.file.clone(),
                });
            }
        }
    }
    Ok(places)
}

/// Reads one file's header, in one request where it is short enough.
async fn read_shard(source: &impl ByteSource, file: &str, room: &Room) -> Result<Shard, CheckpointError> {
    let Opened { mut stream, file_bytes, validator, linked_sha256 } =
        source.open(file, Some(0..FIRST_BYTES)).await?;
    let mut bytes = collect(&mut stream, file, FIRST_BYTES).await?;
    let truncated = |bytes: u64, expected: u64| {
        let file = file.to_owned();
        CheckpointError::HeaderTruncated { file, bytes, expected }
    };
    let Some(prefix) = bytes.first_chunk() else {
        return Err(truncated(bytes.len() as u64, LENGTH_BYTES));
    };
    let json_bytes = Header::json_bytes(file, *prefix)?;
    let data_start = LENGTH_BYTES + json_bytes;
    if let Some(known) = file_bytes.filter(|known| *known < data_start) {
        return Err(truncated(known, data_start));
    }
    room.take_header(file, json_bytes)?;
    let got = bytes.len() as u64;
    if got < data_start {
        let mut rest = source.open(file, Some(got..data_start)).await?.stream;
        bytes.reserve_exact((data_start - got) as usize);
        append(&mut bytes, &mut rest, file, data_start).await?;
    }
    // At most the limit of a header, so it fits usize.
    let Some((head, held)) = bytes.split_at_checked(data_start as usize) else {
        return Err(truncated(bytes.len() as u64, data_start));
    };
    let header = Header::parse(file, head.get(LENGTH_BYTES as usize..).unwrap_or_default())?;
    room.take_tensors(file, header.tensors.len())?;
    header.check_rows(file)?;
    let expected = header.file_bytes();
    let (held, surplus) = held.split_at(header.data_bytes().min(held.len() as u64) as usize);
    match file_bytes {
        Some(bytes) if bytes != expected => {
            return Err(CheckpointError::FileLength { file: file.to_owned(), bytes, expected });
        }
        _ if !surplus.is_empty() => {
            return Err(CheckpointError::TrailingBytes { file: file.to_owned(), expected });
        }
        _ => {}
    }
    let length_known = file_bytes.is_some();
    let (file, header) = (file.to_owned(), Arc::new(header));
    let mut head_hash = FileHash::default();
    head_hash.update(head);
    let (held, head_hash) = (held.into(), Some(head_hash));
    Ok(Shard { file, header, held, length_known, validator, linked_sha256, head_hash })
}

/// The bytes of neighbouring tensors of one shard, pulled piece by piece: nothing is requested
/// between two calls, so the caller's pace is the transfer's. Holds no piece itself.
pub struct ShardStream<S: ByteSource, C> {
    shard: Shard,
    tensors: Range<usize>,
    /// Where in the first of them the bytes begin.
    offset: u64,
    cancelled: C,
    /// The part of what was held of the shard that is still to be returned.
    held: Range<usize>,
    stream: Option<S::Stream>,
    /// Next byte of the file, and the byte after the last.
    at: u64,
    end: u64,
}

impl<S: ByteSource, C: Fn() -> bool> ShardStream<S, C> {
    /// Opens the range of these tensors (indices in the shard's header), less what is held.
    /// `cancelled` is asked before and after every piece.
    ///
    /// # Errors
    /// What the source meets.
    pub async fn open(
        source: &S,
        shard: &Shard,
        tensors: Range<usize>,
        cancelled: C,
    ) -> Result<ShardStream<S, C>, CheckpointError> {
        ShardStream::open_at(source, shard, tensors, 0, cancelled).await
    }

    /// [`ShardStream::open`] from a chunk boundary of the first tensor on, `offset` bytes behind its
    /// beginning.
    ///
    /// # Errors
    /// What the source meets.
    pub async fn open_at(
        source: &S,
        shard: &Shard,
        tensors: Range<usize>,
        offset: u64,
        cancelled: C,
    ) -> Result<ShardStream<S, C>, CheckpointError> {
        if cancelled() {
            return Err(SourceError::Aborted.into());
        }
        let Header { tensors: infos, data_start, .. } = &*shard.header;
        let chosen = infos.get(tensors.clone()).unwrap_or_default();
        let begin = chosen.first().map_or(0, |first| first.begin + offset.min(first.bytes()));
        let end = chosen.last().map_or(begin, |last| last.end);
        let held_end = shard.held.len() as u64;
        // Both are at most the length of what is held, so they fit usize.
        let held = begin.min(held_end) as usize..end.min(held_end) as usize;
        let rest = data_start + begin + held.len() as u64..data_start + end;
        let stream = if rest.is_empty() {
            None
        } else {
            // One byte more than the header describes shows a file that goes on after it.
            let to_the_end = end == shard.header.data_bytes() && !shard.length_known;
            let range = rest.start..rest.end + u64::from(to_the_end);
            Some(source.open(&shard.file, Some(range)).await?.stream)
        };
        let (at, end) = (data_start + begin, rest.end);
        Ok(ShardStream { shard: shard.clone(), tensors, offset, cancelled, held, stream, at, end })
    }

    /// The parser that takes this stream's pieces.
    ///
    /// # Errors
    /// [`CheckpointError::RowTooLong`].
    pub fn parser(&self) -> Result<StreamParser, CheckpointError> {
        let (file, header) = (&self.shard.file, self.shard.header.clone());
        StreamParser::at_offset(file, header, self.tensors.clone(), self.offset)
    }

    /// The next piece; `None` once all bytes came.
    ///
    /// # Errors
    /// [`SourceError::Cut`] where the source ends early, [`SourceError::Aborted`] once
    /// `cancelled` says so, [`CheckpointError::TrailingBytes`], and what the source meets.
    pub async fn next_piece(&mut self) -> Result<Option<Vec<u8>>, CheckpointError> {
        if (self.cancelled)() {
            return Err(self.close(SourceError::Aborted.into()));
        }
        let piece = if !self.held.is_empty() {
            self.shard.held.get(std::mem::take(&mut self.held)).map(<[u8]>::to_vec)
        } else if let Some(stream) = &mut self.stream {
            match stream.next().await {
                Ok(piece) => piece,
                Err(error) => return Err(self.close(error.into())),
            }
        } else {
            None
        };
        // The wait may have been long.
        if (self.cancelled)() {
            return Err(self.close(SourceError::Aborted.into()));
        }
        let file = || self.shard.file.clone();
        let Some(piece) = piece else {
            if self.at < self.end {
                let cut = SourceError::Cut { file: file(), offset: self.at, expected: self.end };
                return Err(self.close(cut.into()));
            }
            self.stream = None;
            return Ok(None);
        };
        self.at += piece.len() as u64;
        if self.at > self.end {
            let expected = self.end;
            return Err(self.close(CheckpointError::TrailingBytes { file: file(), expected }));
        }
        Ok(Some(piece))
    }

    /// Ends the transfer; calls after the error find nothing more to fetch.
    fn close(&mut self, error: CheckpointError) -> CheckpointError {
        self.stream = None;
        self.held = 0..0;
        error
    }
}
