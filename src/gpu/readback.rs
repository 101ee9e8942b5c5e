//! GPU -> host.

use std::collections::VecDeque;
use std::ops::Range;

use futures_channel::oneshot::Receiver;

use super::{Gpu, GpuBuffer, GpuError, Purpose, Resident};

/// Bytes of one piece of a large tensor: enough that the way back costs more than its start.
const PIECE_BYTES: u64 = 4 << 20;

/// Pieces under way while one is being looked at.
const PIECES_AHEAD: usize = 2;

type Mapped = Receiver<Result<(), wgpu::BufferAsyncError>>;

fn map(staging: &wgpu::Buffer, bytes: u64) -> Mapped {
    let (sender, receiver) = futures_channel::oneshot::channel();
    staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
        // The receiver is gone only if nobody waits any more.
        let _ = sender.send(result);
    });
    receiver
}

/// Waits for a mapping, hands its bytes to `take` and ends it.
async fn take_mapped<T>(
    gpu: &Gpu,
    staging: &wgpu::Buffer,
    bytes: u64,
    mapped: Mapped,
    take: impl FnOnce(&[u8]) -> T,
) -> Result<T, GpuError> {
    gpu.poll();
    take_arrived(gpu, staging, bytes, mapped, take).await
}

async fn take_arrived<T>(
    gpu: &Gpu,
    staging: &wgpu::Buffer,
    bytes: u64,
    mapped: Mapped,
    take: impl FnOnce(&[u8]) -> T,
) -> Result<T, GpuError> {
    let mapped = mapped.await;
    let is_mapped = matches!(mapped, Ok(Ok(())));
    if let Err(error) = gpu.check() {
        // The buffer is used again, if the device lives.
        if is_mapped {
            staging.unmap();
        }
        return Err(error);
    }
    if !is_mapped {
        return Err(GpuError::Lost { detail: "a result could not be read back".into() });
    }
    gpu.note_read(bytes);
    let taken = staging
        .get_mapped_range(0..bytes)
        .map(|view| take(&view))
        .map_err(|e| GpuError::Rejected { label: "readback".into(), detail: e.to_string() });
    staging.unmap();
    taken
}

/// Maps `staging` (MAP_READ), which a submitted copy has filled, and returns its
/// first `words` f32 values.
///
/// # Errors
/// [`GpuError::Lost`] or whatever kept the buffer from being mapped.
pub async fn read_buffer(gpu: &Gpu, staging: &wgpu::Buffer, words: u32) -> Result<Vec<f32>, GpuError> {
    let bytes = u64::from(words) * 4;
    let mapped = map(staging, bytes);
    take_mapped(gpu, staging, bytes, mapped, bytemuck::pod_collect_to_vec::<u8, f32>).await
}

/// A few words on their way to the host, while the device goes on with what was submitted behind them.
pub struct Arriving {
    staging: GpuBuffer,
    mapped: Mapped,
    bytes: u64,
    submission: wgpu::SubmissionIndex,
}

impl Arriving {
    /// The first `words` of `staging` (MAP_READ), into which `submission` copies.
    pub fn new(staging: GpuBuffer, words: u32, submission: wgpu::SubmissionIndex) -> Arriving {
        let bytes = u64::from(words) * 4;
        let mapped = map(staging.raw(), bytes);
        Arriving { staging, mapped, bytes, submission }
    }

    /// Waits for them; gives the buffer back for others.
    ///
    /// # Errors
    /// As [`read_buffer`].
    pub async fn take(self, gpu: &Gpu) -> Result<(Vec<u32>, GpuBuffer), GpuError> {
        gpu.poll_until(self.submission);
        let words = bytemuck::pod_collect_to_vec::<u8, u32>;
        let words = take_arrived(gpu, self.staging.raw(), self.bytes, self.mapped, words).await?;
        Ok((words, self.staging))
    }
}

/// A piece on its way.
struct Flight {
    staging: GpuBuffer,
    mapped: Mapped,
    /// Bytes of the staging buffer that are the piece; around them lies the rest of its words.
    piece: Range<usize>,
    /// Bytes mapped.
    bytes: u64,
}

/// Reads elements of a tensor in pieces; while one is looked at the next ones are on their way, so
/// that neither the host nor the device holds the tensor twice.
pub struct PieceReader<'t> {
    tensor: &'t Resident,
    /// Elements not yet asked for.
    rest: Range<u64>,
    /// Elements of a piece.
    piece: u64,
    flights: VecDeque<Flight>,
    spare: Vec<GpuBuffer>,
}

impl<'t> PieceReader<'t> {
    /// A reader of these elements.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for elements that the tensor does not have, or that were half written.
    pub fn new(gpu: &Gpu, tensor: &'t Resident, elements: Range<u64>) -> Result<PieceReader<'t>, GpuError> {
        tensor.check_written()?;
        if elements.start > elements.end || elements.end > tensor.elements() {
            let detail = format!("elements {} to {} of {}", elements.start, elements.end, tensor.elements());
            return Err(GpuError::Shape { label: tensor.label().into(), detail });
        }
        // One word is left for elements that begin inside one.
        let fit = PIECE_BYTES.min(gpu.tier().max_binding_bytes).saturating_sub(4);
        let piece = (fit / tensor.dtype().size_bytes()).clamp(1, u64::from(u32::MAX));
        Ok(PieceReader { tensor, rest: elements, piece, flights: VecDeque::new(), spare: Vec::new() })
    }

    /// Appends the next piece to `out`; `false` at the end.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub async fn next(&mut self, gpu: &Gpu, out: &mut Vec<u8>) -> Result<bool, GpuError> {
        while self.flights.len() < PIECES_AHEAD && !self.rest.is_empty() {
            self.start(gpu)?;
        }
        let Some(Flight { staging, mapped, piece, bytes }) = self.flights.pop_front() else {
            return Ok(false);
        };
        let take = |view: &[u8]| out.extend_from_slice(view.get(piece).unwrap_or_default());
        take_mapped(gpu, staging.raw(), bytes, mapped, take).await?;
        self.spare.push(staging);
        if !self.rest.is_empty() {
            self.start(gpu)?;
        }
        Ok(true)
    }

    /// Sends the next piece on its way.
    fn start(&mut self, gpu: &Gpu) -> Result<(), GpuError> {
        let size = self.tensor.dtype().size_bytes();
        let end = self.rest.end.min(self.rest.start + self.piece);
        let (begin_byte, end_byte) = (self.rest.start * size, end * size);
        let words = begin_byte / 4 * 4..end_byte.next_multiple_of(4);
        let bytes = words.end - words.start;
        let staging = match self.spare.pop() {
            Some(staging) => staging,
            None => {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                let most = (self.piece * size + 4).next_multiple_of(4).min(self.tensor.bytes() + 8);
                gpu.buffer("merge readback", most.max(bytes), usage, Purpose::Merge)?
            }
        };
        let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        self.tensor.copy_bytes(&mut encoder, words.clone(), &staging);
        gpu.submit(Some(encoder.finish()));
        let mapped = map(staging.raw(), bytes);
        let piece = (begin_byte - words.start) as usize..(end_byte - words.start) as usize;
        self.flights.push_back(Flight { staging, mapped, piece, bytes });
        self.rest.start = end;
        Ok(())
    }
}
