//! Buffers: device, tensors, upload, pipelines, readback. Knows no kernel and no model.

mod adapter;
mod device;
mod error;
mod pipeline;
mod readback;
mod resident;
mod tensor;
mod upload;

pub use adapter::{DEFAULT_BINDING_BYTES, DeviceTier, GpuOptions, LimitChoice, Told};
pub use device::{Gpu, GpuBuffer, Purpose, Traffic, buffer_bytes};
pub use error::GpuError;
pub use pipeline::{Access, Binding, BindingKind, CompileAhead, HandOver, Kernel, Kernels, Pipeline};
pub use readback::{Arriving, PieceReader, read_buffer};
pub use resident::Resident;
pub use tensor::{GpuMatrix, Part};
pub use upload::Uploader;
