//! What may go wrong between here and the device.

/// Failure of the GPU or of a request to it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GpuError {
    /// No adapter at all, or none that matches.
    #[error(
        "no WebGPU adapter {wanted}; found: {found}. Use a browser or driver with WebGPU enabled, or name another adapter"
    )]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// The adapters there are.
        found: String,
    },
    /// Only an adapter that computes on the CPU, where one that does not was asked for.
    #[error("the only WebGPU adapter here ({adapter}) is software, and slower")]
    Software {
        /// Its name.
        adapter: String,
    },
    /// The adapter refused to open a device.
    #[error("the adapter {adapter} gave no device: {detail}")]
    NoDevice {
        /// Adapter name.
        adapter: String,
        /// What it said.
        detail: String,
    },
    /// The device is gone; everything on it as well.
    #[error("the GPU device was lost ({detail}); load the model again")]
    Lost {
        /// What the driver said.
        detail: String,
    },
    /// An allocation failed.
    #[error(
        "the GPU has no room for {label} ({bytes} bytes); use a shorter context, f8 weights or a smaller model"
    )]
    OutOfMemory {
        /// What was to be allocated.
        label: String,
        /// Its size.
        bytes: u64,
    },
    /// Larger than any buffer of this device and impossible to split.
    #[error("{label} needs {bytes} bytes in one buffer and this device binds at most {limit}; {advice}")]
    TooLarge {
        /// What was to be allocated.
        label: String,
        /// Its size.
        bytes: u64,
        /// The device's limit.
        limit: u64,
        /// What to do about it.
        advice: &'static str,
    },
    /// Data that do not fit the tensor they are for.
    #[error("{label}: {detail}")]
    Shape {
        /// The tensor.
        label: String,
        /// What does not fit.
        detail: String,
    },
    /// The API rejected a call: a fault of this program or of the driver.
    #[error("the GPU rejected {label}: {detail}")]
    Rejected {
        /// Shader or call.
        label: String,
        /// What it said.
        detail: String,
    },
}
