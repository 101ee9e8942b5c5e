//! Weights of the WebGPU backend: allocation and upload.

use std::rc::Rc;

use super::{GpuVector, WebGpu};
use crate::gpu::{GpuError, GpuMatrix, Purpose};
use crate::steps::{MatrixSpec, Store};

impl Store for WebGpu {
    type Matrix = GpuMatrix;
    type Vector = GpuVector;
    type Error = GpuError;

    fn matrix(&mut self, spec: &MatrixSpec) -> Result<GpuMatrix, GpuError> {
        if self.allocation_scope.is_none() {
            let scope = self.gpu.device().push_error_scope(wgpu::ErrorFilter::OutOfMemory);
            self.allocation_scope = Some(scope);
        }
        let id = self.next_id();
        GpuMatrix::new(&self.gpu, id, spec)
    }

    fn write_rows(&mut self, matrix: &GpuMatrix, first_row: u32, bytes: &[u8]) -> Result<(), GpuError> {
        self.uploader.rows(&self.gpu, matrix, first_row, bytes)
    }

    fn write_scales(&mut self, matrix: &GpuMatrix, first_row: u32, scales: &[f32]) -> Result<(), GpuError> {
        self.uploader.scales(&self.gpu, matrix, first_row, scales)
    }

    fn vector(&mut self, label: &str, len: u32) -> Result<GpuVector, GpuError> {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = self.gpu.buffer(label, WebGpu::vector_bytes(len), usage, Purpose::Weights)?;
        Ok(GpuVector { id: self.next_id(), len, buffer: Rc::new(buffer) })
    }

    fn write_vector(&mut self, vector: &GpuVector, values: &[f32]) -> Result<(), GpuError> {
        if values.len() != vector.len as usize {
            let detail = format!("{} values for a vector of {}", values.len(), vector.len);
            return Err(GpuError::Shape { label: "vector".into(), detail });
        }
        self.uploader.bytes(&self.gpu, &vector.buffer, 0, bytemuck::cast_slice(values));
        Ok(())
    }

    async fn allocated(&mut self) -> Result<(), GpuError> {
        if let Some(scope) = self.allocation_scope.take()
            && scope.pop().await.is_some()
        {
            let bytes = self.gpu.allocated_bytes(Purpose::Weights);
            return Err(GpuError::OutOfMemory { label: "the weights".into(), bytes });
        }
        self.gpu.check()
    }

    async fn relieve(&mut self) -> Result<(), GpuError> {
        self.uploader.relieve(&self.gpu).await
    }

    async fn flush(&mut self) -> Result<(), GpuError> {
        self.uploader.finish(&self.gpu).await
    }
}
