//! A weight matrix in GPU memory, split by rows where one binding cannot hold it.

use crate::dtype::Dtype;
use crate::steps::MatrixSpec;

use super::device::buffer_bytes;
use super::{Gpu, GpuBuffer, GpuError, Purpose};

/// Bytes of one shader load (`vec4<u32>`); rows start at multiples of it.
const LOAD_BYTES: u64 = 16;

/// Consecutive rows of a matrix in buffers of their own.
#[derive(Debug)]
pub struct Part {
    /// First row of the matrix that lies here.
    pub first_row: u32,
    /// Rows here.
    pub rows: u32,
    /// The rows, each padded with zeros to `row_stride` bytes.
    pub weights: GpuBuffer,
    /// `(rows, scale_blocks)` f32, or a token buffer where there are no scales.
    pub scales: GpuBuffer,
}

/// A weight matrix, `(rows, cols)`.
#[derive(Debug)]
pub struct GpuMatrix {
    /// Distinguishes this matrix from every other of its device.
    pub id: u32,
    /// Shape, dtype and name.
    pub spec: MatrixSpec,
    /// Its rows in order.
    pub parts: Vec<Part>,
}

impl GpuMatrix {
    /// Allocates a matrix of zeros.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for a dtype that shaders cannot read or blocks of scales that
    /// begin inside a load, [`GpuError::TooLarge`]
    /// where a single row exceeds the device's limit.
    pub fn new(gpu: &Gpu, id: u32, spec: &MatrixSpec) -> Result<GpuMatrix, GpuError> {
        if !matches!(spec.dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16 | Dtype::F8E4m3 | Dtype::F8E5m2) {
            let detail = format!("no shader reads {:?} weights", spec.dtype);
            return Err(GpuError::Shape { label: spec.label.clone(), detail });
        }
        let per_load = (LOAD_BYTES / spec.dtype.size_bytes()) as u32;
        if spec.scale_cols < spec.cols && !spec.scale_cols.is_multiple_of(per_load) {
            let detail = format!(
                "scales for {} columns of {}, no multiple of {per_load}",
                spec.scale_cols, spec.dtype
            );
            return Err(GpuError::Shape { label: spec.label.clone(), detail });
        }
        let stride = row_stride(spec);
        let scale_bytes = u64::from(scale_blocks(spec)) * 4;
        let rows_per_part = rows_per_part(spec, gpu.tier().max_binding_bytes)?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let mut parts = Vec::new();
        let mut first_row = 0;
        while first_row < spec.rows {
            let rows = rows_per_part.min(spec.rows - first_row);
            let bytes = u64::from(rows) * stride;
            let scale_bytes = u64::from(rows) * scale_bytes;
            parts.push(Part {
                first_row,
                rows,
                weights: gpu.buffer(&spec.label, bytes, usage, Purpose::Weights)?,
                scales: gpu.buffer(&spec.label, scale_bytes, usage, Purpose::Weights)?,
            });
            first_row += rows;
        }
        Ok(GpuMatrix { id, spec: spec.clone(), parts })
    }

    /// Device memory that a matrix takes where one binding holds `limit` bytes.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`] where a single row exceeds that.
    pub fn bytes(spec: &MatrixSpec, limit: u64) -> Result<u64, GpuError> {
        let rows_per_part = u64::from(rows_per_part(spec, limit)?);
        let per_row = [row_stride(spec), u64::from(scale_blocks(spec)) * 4];
        let part = |rows: u64| per_row.iter().map(|bytes| buffer_bytes(rows * bytes)).sum::<u64>();
        let (whole, rest) = (u64::from(spec.rows) / rows_per_part, u64::from(spec.rows) % rows_per_part);
        Ok(whole * part(rows_per_part) + if rest > 0 { part(rest) } else { 0 })
    }

    /// Bytes between the starts of neighbouring rows.
    pub fn row_stride(&self) -> u64 {
        row_stride(&self.spec)
    }

    /// 16-byte loads per row.
    pub fn loads_per_row(&self) -> u32 {
        u32::try_from(self.row_stride() / LOAD_BYTES).unwrap_or(u32::MAX)
    }

    /// Scales per row; 0: none.
    pub fn scale_blocks(&self) -> u32 {
        scale_blocks(&self.spec)
    }
}

/// Rows of each part but the last.
fn rows_per_part(spec: &MatrixSpec, limit: u64) -> Result<u32, GpuError> {
    let stride = row_stride(spec);
    let fit = limit / stride.max(u64::from(scale_blocks(spec)) * 4).max(1);
    // Kernels compute four rows together, and their squares: parts of whole groups keep them aligned.
    let rows_per_part = if fit >= 4 { fit - fit % 4 } else { fit };
    if rows_per_part == 0 {
        return Err(GpuError::TooLarge {
            label: format!("a row of {}", spec.label),
            bytes: stride,
            limit,
            advice: "use a device with larger limits",
        });
    }
    Ok(u32::try_from(rows_per_part).unwrap_or(u32::MAX))
}

fn row_stride(spec: &MatrixSpec) -> u64 {
    (u64::from(spec.cols) * spec.dtype.size_bytes()).next_multiple_of(LOAD_BYTES)
}

fn scale_blocks(spec: &MatrixSpec) -> u32 {
    if spec.scale_cols == 0 { 0 } else { spec.cols.div_ceil(spec.scale_cols) }
}
