//! Host bytes into GPU buffers, with bounded bytes in flight.

use std::collections::VecDeque;

use super::device::Fence;
use super::{Gpu, GpuBuffer, GpuError, GpuMatrix};

/// Bytes written between two fences. Browsers keep a copy of every pending write; without a bound
/// that copy grows to the model's size.
const BYTES_PER_FENCE: u64 = 8 << 20;

/// Bytes of one write, a multiple of four. Chromium passes what is longer in parts that it joins again:
/// at 384 KiB, half as slow again in the page's process.
const BYTES_PER_WRITE: usize = 256 << 10;

/// Fences that the device may have before it: with one alone, device and network would wait for each
/// other in turn, and a busy machine takes a while to answer.
const FENCES: usize = 6;

/// Writes before a submit, however small: long unsubmitted runs of writes have corrupted
/// early data on some drivers (cubecl#1120).
const MAX_WRITES_IN_FLIGHT: u32 = 64;

/// Writes rows and remembers how much the device has yet to take.
#[derive(Debug, Default)]
pub struct Uploader {
    bytes_since_fence: u64,
    fences: VecDeque<Fence>,
    writes_since_submit: u32,
    padded: Vec<u8>,
}

impl Uploader {
    /// Writes whole rows, tightly packed, from `first_row` on.
    ///
    /// # Errors
    /// [`GpuError::Shape`] if `bytes` is not whole rows of the matrix or exceeds it.
    pub fn rows(
        &mut self,
        gpu: &Gpu,
        matrix: &GpuMatrix,
        first_row: u32,
        bytes: &[u8],
    ) -> Result<(), GpuError> {
        let row_bytes = u64::from(matrix.spec.cols) * matrix.spec.dtype.size_bytes();
        let rows = whole_rows(matrix, first_row, bytes.len() as u64, row_bytes)?;
        self.spread(gpu, matrix, first_row, rows, bytes, row_bytes, matrix.row_stride(), |part| &part.weights)
    }

    /// Writes the scales of whole rows from `first_row` on.
    ///
    /// # Errors
    /// [`GpuError::Shape`] as for [`Uploader::rows`].
    pub fn scales(
        &mut self,
        gpu: &Gpu,
        matrix: &GpuMatrix,
        first_row: u32,
        scales: &[f32],
    ) -> Result<(), GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(scales);
        let row_bytes = u64::from(matrix.scale_blocks()) * 4;
        let rows = whole_rows(matrix, first_row, bytes.len() as u64, row_bytes)?;
        self.spread(gpu, matrix, first_row, rows, bytes, row_bytes, row_bytes, |part| &part.scales)
    }

    /// Writes at a multiple of four bytes; pads the last word with zeros.
    pub fn bytes(&mut self, gpu: &Gpu, buffer: &GpuBuffer, offset: u64, bytes: &[u8]) {
        gpu.asks("an upload", bytes.len() as u64);
        let tail = bytes.len() % 4;
        let (body, rest) = bytes.split_at(bytes.len() - tail);
        for (index, piece) in (0..).zip(body.chunks(BYTES_PER_WRITE)) {
            gpu.queue().write_buffer(buffer.raw(), offset + index * BYTES_PER_WRITE as u64, piece);
            self.count_write(gpu);
        }
        if tail != 0 {
            let mut word = [0_u8; 4];
            for (to, from) in word.iter_mut().zip(rest) {
                *to = *from;
            }
            gpu.queue().write_buffer(buffer.raw(), offset + body.len() as u64, &word);
            self.count_write(gpu);
        }
        self.bytes_since_fence += bytes.len() as u64;
    }

    fn count_write(&mut self, gpu: &Gpu) {
        self.writes_since_submit += 1;
        if self.writes_since_submit >= MAX_WRITES_IN_FLIGHT {
            gpu.submit(None);
            self.writes_since_submit = 0;
        }
    }

    /// Waits until the device has taken the writes, if they are many.
    ///
    /// # Errors
    /// What the device reports meanwhile.
    pub async fn relieve(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        if self.bytes_since_fence >= BYTES_PER_FENCE {
            gpu.submit(None);
            (self.bytes_since_fence, self.writes_since_submit) = (0, 0);
            self.fences.push_back(gpu.fence());
            if self.fences.len() > FENCES
                && let Some(oldest) = self.fences.pop_front()
            {
                return gpu.passed(oldest).await;
            }
        }
        gpu.check()
    }

    /// Waits until the device has taken every write.
    ///
    /// # Errors
    /// What the device reports meanwhile.
    pub async fn finish(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        gpu.submit(None);
        (self.bytes_since_fence, self.writes_since_submit) = (0, 0);
        self.fences.clear();
        gpu.idle().await
    }

    #[expect(clippy::too_many_arguments, reason = "one private loop for weights and scales")]
    fn spread(
        &mut self,
        gpu: &Gpu,
        matrix: &GpuMatrix,
        first_row: u32,
        rows: u32,
        bytes: &[u8],
        row_bytes: u64,
        stride: u64,
        buffer: impl Fn(&super::Part) -> &GpuBuffer,
    ) -> Result<(), GpuError> {
        let end = first_row + rows;
        for part in &matrix.parts {
            let from = first_row.max(part.first_row);
            let to = end.min(part.first_row + part.rows);
            if from >= to {
                continue;
            }
            let begin = u64::from(from - first_row) * row_bytes;
            let length = u64::from(to - from) * row_bytes;
            let slice = bytes.get(begin as usize..(begin + length) as usize).unwrap_or_default();
            let offset = u64::from(from - part.first_row) * stride;
            if row_bytes == stride {
                self.bytes(gpu, buffer(part), offset, slice);
            } else {
                let mut padded = std::mem::take(&mut self.padded);
                padded.clear();
                for row in slice.chunks_exact(row_bytes.max(1) as usize) {
                    padded.extend_from_slice(row);
                    padded.resize(padded.len().next_multiple_of(stride as usize), 0);
                }
                self.bytes(gpu, buffer(part), offset, &padded);
                self.padded = padded;
            }
        }
        Ok(())
    }
}

fn whole_rows(matrix: &GpuMatrix, first_row: u32, bytes: u64, row_bytes: u64) -> Result<u32, GpuError> {
    let shape = |detail: String| GpuError::Shape { label: matrix.spec.label.clone(), detail };
    if row_bytes == 0 || !bytes.is_multiple_of(row_bytes) {
        return Err(shape(format!("{bytes} bytes are not whole rows of {row_bytes} bytes")));
    }
    let rows = bytes / row_bytes;
    if u64::from(first_row) + rows > u64::from(matrix.spec.rows) {
        let have = matrix.spec.rows;
        return Err(shape(format!("rows {first_row} to {} of {have}", u64::from(first_row) + rows)));
    }
    Ok(rows as u32)
}
