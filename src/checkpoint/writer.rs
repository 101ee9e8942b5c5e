//! The inverse of reading: tensors to sharded safetensors files and their index.
//!
//! A [`Plan`] fixes every file, header and offset from names, dtypes and shapes alone; a
//! [`Writer`] then takes the bytes in the plan's order and holds none of them.

use std::collections::{BTreeMap, HashSet};

use crate::checkpoint::error::{CheckpointError, HEADER_LIMIT_BYTES};
use crate::checkpoint::header::{Header, LENGTH_BYTES, TensorInfo};
use crate::checkpoint::index::{INDEX_FILE, SINGLE_FILE};
use crate::checkpoint::sink::ByteSink;
use crate::dtype::Dtype;

/// A tensor that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
}

/// One file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedShard {
    /// File name.
    pub file: String,
    /// Its tensors, in the order in which their bytes are written.
    pub header: Header,
    /// Everything before the data.
    pub head: Vec<u8>,
}

/// All files to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The weight files.
    pub shards: Vec<PlannedShard>,
}

impl Plan {
    /// Distributes tensors over shards in the order given: a shard that is not empty is closed
    /// when the next tensor would make its data longer than `shard_bytes`. Within a shard they are
    /// ordered by dtype size, largest first, then by name.
    ///
    /// # Errors
    /// A name twice or reserved; a shape that overflows; a header beyond the format's limit.
    pub fn new(tensors: Vec<TensorSpec>, shard_bytes: u64) -> Result<Plan, CheckpointError> {
        Plan::from_shards(distribute(tensors, shard_bytes)?)
    }

    /// A plan of exactly these shards.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn from_shards(shards: Vec<Vec<TensorSpec>>) -> Result<Plan, CheckpointError> {
        let mut names = HashSet::new();
        for tensor in shards.iter().flatten() {
            if tensor.name == "__metadata__" || !names.insert(tensor.name.as_str()) {
                return Err(CheckpointError::WriterName { tensor: tensor.name.clone() });
            }
        }
        let count = shards.len();
        let name = |number: usize| match count {
            1 => SINGLE_FILE.to_owned(),
            _ => format!("model-{number:05}-of-{count:05}.safetensors"),
        };
        let shards = shards.into_iter().enumerate();
        let shards = shards.map(|(i, tensors)| plan_shard(name(i + 1), tensors));
        Ok(Plan { shards: shards.collect::<Result<_, _>>()? })
    }

    /// All tensors in the order in which their bytes must be written.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.shards.iter().flat_map(|shard| &shard.header.tensors)
    }

    /// Size of all tensors together, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.header.data_bytes()).sum()
    }

    /// Content of the index file; `None` where a single file needs none.
    pub fn index_json(&self) -> Option<String> {
        if self.shards.len() < 2 {
            return None;
        }
        let places = self.shards.iter().flat_map(|s| s.header.tensors.iter().map(|t| (&t.name, &s.file)));
        let weight_map: BTreeMap<_, _> = places.collect();
        let metadata = serde_json::json!({ "total_size": self.total_bytes() });
        Some(format!("{:#}\n", serde_json::json!({ "metadata": metadata, "weight_map": weight_map })))
    }
}

/// Distributes tensors over shards, as [`Plan::new`] does.
///
/// # Errors
/// [`CheckpointError::SizeOverflow`].
pub fn distribute(
    tensors: Vec<TensorSpec>,
    shard_bytes: u64,
) -> Result<Vec<Vec<TensorSpec>>, CheckpointError> {
    let mut shards = vec![Vec::new()];
    let mut bytes = 0u64;
    for tensor in tensors {
        let size = size_bytes(&tensor)?;
        if bytes.saturating_add(size) > shard_bytes && shards.last().is_some_and(|s| !s.is_empty()) {
            shards.push(Vec::new());
            bytes = 0;
        }
        bytes = bytes.saturating_add(size);
        if let Some(last) = shards.last_mut() {
            last.push(tensor);
        }
    }
    Ok(shards)
}

fn size_bytes(tensor: &TensorSpec) -> Result<u64, CheckpointError> {
    let elements = tensor.shape.iter().try_fold(1u64, |n, dimension| n.checked_mul(*dimension));
    let size = elements.and_then(|n| n.checked_mul(tensor.dtype.size_bytes()));
    size.ok_or_else(|| CheckpointError::SizeOverflow {
        file: "output".to_owned(),
        tensor: tensor.name.clone(),
        shape: tensor.shape.clone(),
    })
}

fn plan_shard(file: String, mut tensors: Vec<TensorSpec>) -> Result<PlannedShard, CheckpointError> {
    tensors.sort_by(|a, b| b.dtype.size_bytes().cmp(&a.dtype.size_bytes()).then_with(|| a.name.cmp(&b.name)));
    let mut header = Header { metadata: [("format".into(), "pt".into())].into(), ..Header::default() };
    let mut json = r#"{"__metadata__":{"format":"pt"}"#.to_owned();
    for tensor in tensors {
        let begin = header.data_bytes();
        let end = begin.checked_add(size_bytes(&tensor)?).ok_or_else(|| CheckpointError::SizeOverflow {
            file: file.clone(),
            tensor: tensor.name.clone(),
            shape: tensor.shape.clone(),
        })?;
        let TensorSpec { name, dtype, shape } = tensor;
        let entry =
            serde_json::json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": [begin, end] });
        json += &format!(",{}:{entry}", serde_json::Value::from(name.as_str()));
        header.tensors.push(TensorInfo { name, dtype, shape, begin, end });
    }
    json.push('}');
    // Padded with spaces, so that the data starts at a multiple of 8.
    let padded = json.len().next_multiple_of(LENGTH_BYTES as usize);
    let bytes = padded as u64;
    if bytes > HEADER_LIMIT_BYTES {
        return Err(CheckpointError::HeaderTooLarge { file, bytes });
    }
    header.data_start = LENGTH_BYTES + bytes;
    let mut head = bytes.to_le_bytes().to_vec();
    head.extend_from_slice(json.as_bytes());
    head.resize(LENGTH_BYTES as usize + padded, b' ');
    Ok(PlannedShard { file, header, head })
}

/// Writes the tensors of a plan, in its order.
pub struct Writer<'a, S> {
    plan: &'a Plan,
    sink: S,
    shard: usize,
    tensor: usize,
    /// Bytes of the current tensor that were written.
    offset: u64,
    /// Whether the current shard's file was created.
    open: bool,
}

impl<'a, S: ByteSink> Writer<'a, S> {
    /// A writer that has written nothing yet.
    pub fn new(plan: &'a Plan, sink: S) -> Writer<'a, S> {
        Writer { plan, sink, shard: 0, tensor: 0, offset: 0, open: false }
    }

    /// The tensor whose bytes are expected next, and how many of them are already there.
    pub fn next(&self) -> Option<(&'a TensorInfo, u64)> {
        let shards = self.plan.shards.get(self.shard..).unwrap_or_default();
        let skip = |i: usize| if i == 0 { self.tensor } else { 0 };
        let mut tensors = shards.iter().enumerate().flat_map(|(i, s)| s.header.tensors.iter().skip(skip(i)));
        // Tensors of no bytes are passed by themselves.
        tensors.find(|tensor| tensor.bytes() > 0).map(|tensor| (tensor, self.offset))
    }

    /// Writes the next bytes of `tensor`, which must be the plan's next tensor that has any.
    ///
    /// # Errors
    /// Another tensor than the next, more bytes than it has, or what the sink meets.
    pub async fn write(&mut self, tensor: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.settle().await?;
        let (info, offset) = match self.next() {
            Some((info, offset)) if info.name == tensor => (info, offset),
            other => {
                let expected = other.map_or("the end", |(info, _)| info.name.as_str()).to_owned();
                return Err(CheckpointError::WriterOrder { tensor: tensor.to_owned(), expected });
            }
        };
        let total = offset.saturating_add(bytes.len() as u64);
        if total > info.bytes() {
            let (tensor, expected) = (tensor.to_owned(), info.bytes());
            return Err(CheckpointError::WriterSize { tensor, bytes: total, expected });
        }
        self.sink.write(bytes).await?;
        self.offset = total;
        if total == info.bytes() {
            (self.tensor, self.offset) = (self.tensor + 1, 0);
        }
        Ok(())
    }

    /// Completes the last file, writes the index, and hands the sink back.
    ///
    /// # Errors
    /// Tensors that were not written, or what the sink meets.
    pub async fn finish(mut self) -> Result<S, CheckpointError> {
        if let Some((next, _)) = self.next() {
            let rest = self.plan.tensors().skip_while(|tensor| tensor.name != next.name);
            let missing = rest.filter(|tensor| tensor.bytes() > 0).count() as u64;
            return Err(CheckpointError::WriterIncomplete { tensor: next.name.clone(), missing });
        }
        self.settle().await?;
        if let Some(index) = self.plan.index_json() {
            self.sink.create(INDEX_FILE, index.len() as u64).await?;
            self.sink.write(index.as_bytes()).await?;
            self.sink.finish().await?;
        }
        Ok(self.sink)
    }

    /// Closes files that are complete and creates the one to write into.
    async fn settle(&mut self) -> Result<(), CheckpointError> {
        let plan = self.plan;
        while let Some(shard) = plan.shards.get(self.shard) {
            if !self.open {
                self.sink.create(&shard.file, shard.header.file_bytes()).await?;
                self.sink.write(&shard.head).await?;
                self.open = true;
            }
            let rest = shard.header.tensors.get(self.tensor..).unwrap_or_default();
            match rest.iter().position(|tensor| tensor.bytes() > 0) {
                Some(empty) => {
                    self.tensor += empty;
                    return Ok(());
                }
                None => {
                    self.sink.finish().await?;
                    (self.shard, self.tensor, self.open) = (self.shard + 1, 0, false);
                }
            }
        }
        Ok(())
    }
}
