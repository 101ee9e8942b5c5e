//! A tensor in GPU memory as one long vector, its elements packed.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::dtype::Dtype;

use super::{Gpu, GpuBuffer, GpuError, Purpose, Uploader};

/// Elements of the widest shader load over all dtypes: buffers hold whole multiples of it, the
/// rest zeros.
const PADDED_TO: u64 = 8;

/// Bytes per element for which tensors are split, whatever theirs: tensors with equally many elements
/// are split at the same ones.
const SPLIT_BYTES: u64 = 4;

/// A tensor as one vector of packed elements, in several buffers where one binding cannot hold it.
#[derive(Debug)]
pub struct Resident {
    label: String,
    dtype: Dtype,
    elements: u64,
    part_elements: u64,
    parts: Vec<GpuBuffer>,
    /// Halves of words whose other half is yet to come, by the element's index.
    halves: BTreeMap<u64, [u8; 2]>,
}

impl Resident {
    /// Allocates a tensor of zeros that is split at multiples of `granule` elements.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for a dtype other than F32, BF16 and F16, [`GpuError::TooLarge`] where
    /// even `granule` elements exceed the device's limit.
    pub fn new(
        gpu: &Gpu,
        label: &str,
        dtype: Dtype,
        elements: u64,
        granule: u32,
    ) -> Result<Resident, GpuError> {
        if !matches!(dtype, Dtype::F32 | Dtype::Bf16 | Dtype::F16) {
            let detail = format!("no shader merges {dtype} tensors; convert them to F32, BF16 or F16");
            return Err(GpuError::Shape { label: label.into(), detail });
        }
        let granule = u64::from(granule).next_multiple_of(PADDED_TO);
        let limit = gpu.tier().max_binding_bytes;
        // Shaders count elements in u32.
        let part_elements = (limit / SPLIT_BYTES).min(1 << 30) / granule * granule;
        if part_elements == 0 && elements > 0 {
            return Err(GpuError::TooLarge {
                label: format!("a block of {label}"),
                bytes: granule * SPLIT_BYTES,
                limit,
                advice: "use a device with larger limits",
            });
        }
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let mut parts = Vec::new();
        let mut rest = elements;
        while rest > 0 {
            let bytes = rest.min(part_elements).next_multiple_of(PADDED_TO) * dtype.size_bytes();
            parts.push(gpu.buffer(label, bytes, usage, Purpose::Merge)?);
            rest -= rest.min(part_elements);
        }
        Ok(Resident { label: label.into(), dtype, elements, part_elements, parts, halves: BTreeMap::new() })
    }

    /// What it is called in messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// Bytes of its elements.
    pub fn bytes(&self) -> u64 {
        self.elements * self.dtype.size_bytes()
    }

    /// Its buffers in order, each with the number of elements in it.
    pub fn parts(&self) -> impl ExactSizeIterator<Item = (&GpuBuffer, u32)> {
        let elements =
            |part: usize| self.part_elements.min(self.elements - part as u64 * self.part_elements) as u32;
        self.parts.iter().enumerate().map(move |(part, buffer)| (buffer, elements(part)))
    }

    /// Elements of every part but the last.
    pub fn part_elements(&self) -> u64 {
        self.part_elements
    }

    /// Whether whole words have been written.
    ///
    /// # Errors
    /// [`GpuError::Shape`] if half a word is missing.
    pub fn check_written(&self) -> Result<(), GpuError> {
        match self.halves.keys().next() {
            None => Ok(()),
            Some(element) => {
                let detail = format!("element {} was not written", element ^ 1);
                Err(GpuError::Shape { label: self.label.clone(), detail })
            }
        }
    }

    /// Writes packed elements from `first` on. Chunks may come in any order and begin at any
    /// element, as long as every element is written once.
    ///
    /// # Errors
    /// [`GpuError::Shape`] if `bytes` is no whole number of elements or exceeds the tensor.
    pub fn write(
        &mut self,
        gpu: &Gpu,
        uploader: &mut Uploader,
        first: u64,
        bytes: &[u8],
    ) -> Result<(), GpuError> {
        let size = self.dtype.size_bytes();
        let length = bytes.len() as u64;
        let shape = |detail: String| GpuError::Shape { label: self.label.clone(), detail };
        if !length.is_multiple_of(size) {
            return Err(shape(format!("{length} bytes are no whole number of {} elements", self.dtype)));
        }
        let end = first.checked_add(length / size).filter(|end| *end <= self.elements);
        let Some(end) = end else {
            return Err(shape(format!("{} elements from {first} on, of {}", length / size, self.elements)));
        };
        if size == 4 {
            self.write_words(gpu, uploader, first * 4, bytes);
            return Ok(());
        }
        let (mut first, mut bytes) = (first, bytes);
        if !first.is_multiple_of(2)
            && let Some((half, rest)) = bytes.split_first_chunk::<2>()
        {
            self.write_half(gpu, uploader, first, *half);
            (first, bytes) = (first + 1, rest);
        }
        if bytes.len() % 4 == 2
            && let Some((rest, half)) = bytes.split_last_chunk::<2>()
        {
            self.write_half(gpu, uploader, end - 1, *half);
            bytes = rest;
        }
        self.write_words(gpu, uploader, first * 2, bytes);
        Ok(())
    }

    /// Writes a word as soon as both its halves are known. The half behind the last element is zero.
    fn write_half(&mut self, gpu: &Gpu, uploader: &mut Uploader, element: u64, half: [u8; 2]) {
        let partner = match self.halves.remove(&(element ^ 1)) {
            None if element ^ 1 == self.elements => [0; 2],
            None => {
                self.halves.insert(element, half);
                return;
            }
            Some(partner) => partner,
        };
        let [low, high] = if element.is_multiple_of(2) { [half, partner] } else { [partner, half] };
        let word = [low[0], low[1], high[0], high[1]];
        self.write_words(gpu, uploader, element / 2 * 4, &word);
    }

    /// Writes whole words, spread over the parts.
    fn write_words(&self, gpu: &Gpu, uploader: &mut Uploader, begin: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for (buffer, range) in self.bytes_by_part(begin..begin + bytes.len() as u64) {
            let (now, later) = rest.split_at(rest.len().min((range.end - range.start) as usize));
            uploader.bytes(gpu, buffer, range.start, now);
            rest = later;
        }
    }

    /// Records copies of these bytes, whole words, to the start of `to`.
    pub(super) fn copy_bytes(&self, encoder: &mut wgpu::CommandEncoder, bytes: Range<u64>, to: &GpuBuffer) {
        let mut at = 0;
        for (buffer, range) in self.bytes_by_part(bytes) {
            let length = range.end - range.start;
            encoder.copy_buffer_to_buffer(buffer.raw(), range.start, to.raw(), at, length);
            at += length;
        }
    }

    /// The buffers in which a range of bytes lies, each with its bytes there.
    fn bytes_by_part(&self, bytes: Range<u64>) -> impl Iterator<Item = (&GpuBuffer, Range<u64>)> {
        let part_bytes = self.part_elements * self.dtype.size_bytes();
        let first = bytes.start.checked_div(part_bytes).unwrap_or(0);
        let parts = self.parts.iter().zip(0_u64..).skip(first as usize);
        parts.map_while(move |(buffer, i)| {
            let base = i * part_bytes;
            let (from, to) = (bytes.start.max(base), bytes.end.min(base + part_bytes));
            (from < to).then(|| (buffer, from - base..to - base))
        })
    }
}
