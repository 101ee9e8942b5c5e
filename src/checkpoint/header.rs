//! The safetensors header: 8 bytes of length, then JSON, then data.
//!
//! Everything is u64 and checked: the sizes come from a file that is not trusted, and wasm32's
//! usize ends at 4 GiB. Stricter than the `safetensors` crate where a header says nothing sensible
//! or breaks the format's own rules: white space before the brace, keys that repeat, entries with
//! unknown fields or written as arrays, a null `__metadata__`, shapes of more than 64 dimensions,
//! and dtypes that bise cannot read.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use crate::checkpoint::error::{CheckpointError, HEADER_LIMIT_BYTES, ROW_LIMIT_BYTES};
use crate::checkpoint::unique::UniqueMap;
use crate::dtype::Dtype;

/// Bytes before the JSON: its length, little-endian.
pub const LENGTH_BYTES: u64 = 8;
/// Most dimensions that a shape may have.
const RANK_LIMIT: usize = 64;
/// Bytes that a chunk has about; see [`TensorInfo::chunk_bytes`].
const CHUNK_BYTES: u64 = 1 << 20;

/// One tensor of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, unique in the checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions; empty for a scalar.
    pub shape: Vec<u64>,
    /// First byte, relative to the start of the file's data.
    pub begin: u64,
    /// Byte after the last, relative to the start of the file's data.
    pub end: u64,
}

impl TensorInfo {
    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.bytes() / self.dtype.size_bytes()
    }

    /// Size in bytes of one row: the last dimension, or the only element of a scalar.
    pub fn row_bytes(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1).saturating_mul(self.dtype.size_bytes())
    }

    /// Number of rows: the product of all dimensions but the last.
    pub fn rows(&self) -> u64 {
        self.bytes().checked_div(self.row_bytes()).unwrap_or(0)
    }

    /// Size in bytes of each chunk but the last, which may be shorter: whole rows, at least one,
    /// and about 1 MiB. It depends on the tensor alone, never on how its bytes arrive.
    pub fn chunk_bytes(&self) -> u64 {
        let row_bytes = self.row_bytes().max(1);
        ((CHUNK_BYTES / row_bytes).max(1) * row_bytes).min(self.bytes())
    }
}

/// The tensors of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Tensors by position in the file.
    pub tensors: Vec<TensorInfo>,
    /// The file's `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// Where in the file the data starts, in bytes.
    pub data_start: u64,
}

impl Header {
    /// The length of the JSON that the first 8 bytes announce.
    ///
    /// # Errors
    /// More than [`HEADER_LIMIT_BYTES`].
    pub fn json_bytes(file: &str, prefix: [u8; LENGTH_BYTES as usize]) -> Result<u64, CheckpointError> {
        let bytes = u64::from_le_bytes(prefix);
        if bytes > HEADER_LIMIT_BYTES {
            return Err(CheckpointError::HeaderTooLarge { file: file.to_owned(), bytes });
        }
        Ok(bytes)
    }

    /// Parses the JSON of a header. `file` is for messages.
    ///
    /// # Errors
    /// Anything that the format forbids: see the variants of [`CheckpointError`].
    pub fn parse(file: &str, json: &[u8]) -> Result<Header, CheckpointError> {
        let file = || file.to_owned();
        let text = std::str::from_utf8(json).map_err(|error| CheckpointError::HeaderNotUtf8 {
            file: file(),
            offset: error.valid_up_to() as u64,
        })?;
        if !text.starts_with('{') {
            return Err(CheckpointError::HeaderNotObject { file: file() });
        }
        let invalid = |detail: String| CheckpointError::HeaderJson { file: file(), detail };
        let top: UniqueMap<UniqueMap<Field>> =
            serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if let Some(key) = top.duplicate {
            return Err(CheckpointError::DuplicateKey { file: file(), key });
        }
        let mut header = Header { data_start: LENGTH_BYTES + json.len() as u64, ..Header::default() };
        for (name, fields) in top.entries {
            if let Some(key) = fields.duplicate {
                return Err(CheckpointError::DuplicateKey { file: file(), key: format!("{name}: {key}") });
            }
            if name == "__metadata__" {
                for (key, field) in fields.entries {
                    let Field::Text(value) = field else {
                        return Err(invalid(format!("__metadata__: {key} is no string")));
                    };
                    header.metadata.insert(key, value);
                }
            } else {
                header.tensors.push(entry(&file(), name, fields.entries)?);
            }
        }
        header.tensors.sort_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
        header.check_layout(&file())?;
        Ok(header)
    }

    /// Length of all tensors together, in bytes.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.last().map_or(0, |last| last.end)
    }

    /// Length of the whole file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.data_start.saturating_add(self.data_bytes())
    }

    /// Refuses tensors whose rows are too long to be streamed.
    pub(super) fn check_rows(&self, file: &str) -> Result<(), CheckpointError> {
        match self.tensors.iter().find(|t| t.bytes() > 0 && t.row_bytes() > ROW_LIMIT_BYTES) {
            None => Ok(()),
            Some(tensor) => Err(CheckpointError::RowTooLong {
                file: file.to_owned(),
                tensor: tensor.name.clone(),
                row_bytes: tensor.row_bytes(),
            }),
        }
    }

    /// Tensors follow each other without hole or overlap, each as large as its shape says.
    fn check_layout(&self, file: &str) -> Result<(), CheckpointError> {
        let mut expected = 0;
        for info in &self.tensors {
            let (file, tensor, begin, end) = (file.to_owned(), info.name.clone(), info.begin, info.end);
            if begin > expected {
                return Err(CheckpointError::Hole { file, tensor, begin, expected });
            }
            if begin < expected {
                return Err(CheckpointError::Overlap { file, tensor, begin, expected });
            }
            if end < begin {
                return Err(CheckpointError::NegativeSize { file, tensor, begin, end });
            }
            let shape = info.shape.clone();
            let elements = shape.iter().try_fold(1u64, |n, dimension| n.checked_mul(*dimension));
            let size = elements.and_then(|n| n.checked_mul(info.dtype.size_bytes()));
            let size = size.filter(|_| end.checked_add(self.data_start).is_some());
            let Some(size) = size else {
                return Err(CheckpointError::SizeOverflow { file, tensor, shape });
            };
            let (dtype, bytes) = (info.dtype, end - begin);
            if bytes != size {
                let expected = size;
                return Err(CheckpointError::SizeMismatch { file, tensor, dtype, shape, bytes, expected });
            }
            expected = end;
        }
        Ok(())
    }
}

/// One tensor from its fields.
fn entry(file: &str, tensor: String, fields: Vec<(String, Field)>) -> Result<TensorInfo, CheckpointError> {
    let (mut dtype, mut shape, mut offsets) = (None, None, None);
    let invalid = |detail: &str| CheckpointError::HeaderJson {
        file: file.to_owned(),
        detail: format!("tensor {tensor}: {detail}"),
    };
    for (key, field) in fields {
        match (key.as_str(), field) {
            ("dtype", Field::Text(name)) => dtype = Some(name),
            ("shape", Field::Numbers(dimensions)) => shape = Some(dimensions),
            ("data_offsets", Field::Numbers(range)) => offsets = Some(range),
            _ => return Err(invalid(&format!("field {key:?} is unknown or of the wrong type"))),
        }
    }
    let (Some(dtype), Some(shape), Some(offsets)) = (dtype, shape, offsets) else {
        return Err(invalid("needs dtype, shape and data_offsets"));
    };
    let [begin, end] = *offsets else {
        return Err(invalid("data_offsets needs exactly a begin and an end"));
    };
    let Some(dtype) = Dtype::parse(&dtype) else {
        return Err(CheckpointError::UnknownDtype { file: file.to_owned(), tensor, dtype });
    };
    Ok(TensorInfo { name: tensor, dtype, shape, begin, end })
}

/// The only values that a header's entries have.
enum Field {
    Text(String),
    Numbers(Vec<u64>),
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an array of natural numbers")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Field, A::Error> {
        let mut numbers = Vec::new();
        while let Some(number) = elements.next_element()? {
            if numbers.len() == RANK_LIMIT {
                return Err(A::Error::custom("more than 64 dimensions"));
            }
            numbers.push(number);
        }
        Ok(Field::Numbers(numbers))
    }
}
