//! The device and its buffers; its loss, handled once.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::adapter::{DeviceTier, GpuOptions, features, find_adapter, required_limits};
use super::{CompileAhead, GpuError};

/// What a buffer is for: memory is reported by purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Weights and their scales.
    Weights,
    /// Key/value cache.
    KvCache,
    /// Tensors of a merge, and what is read back of them.
    Merge,
    /// Everything else: activations, tables, uniforms, staging.
    Activations,
}

/// Bytes allocated now, by purpose.
#[derive(Debug, Default)]
struct Accounts([Cell<u64>; 4]);

impl Accounts {
    fn cell(&self, purpose: Purpose) -> &Cell<u64> {
        let [weights, kv_cache, merge, activations] = &self.0;
        match purpose {
            Purpose::Weights => weights,
            Purpose::KvCache => kv_cache,
            Purpose::Merge => merge,
            Purpose::Activations => activations,
        }
    }
}

/// A buffer that is destroyed, not merely forgotten, when dropped: a browser
/// would otherwise keep its memory until the garbage collector finds it.
#[derive(Debug)]
pub struct GpuBuffer {
    raw: wgpu::Buffer,
    purpose: Purpose,
    accounts: Rc<Accounts>,
}

impl GpuBuffer {
    /// The WebGPU buffer.
    pub fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        let account = self.accounts.cell(self.purpose);
        account.set(account.get().saturating_sub(self.raw.size()));
        self.raw.destroy();
    }
}

/// What went between host and device, for measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Submits, those of writes alone included.
    pub submits: u64,
    /// Bytes that came back.
    pub read_bytes: u64,
}

/// A mark in the queue.
#[derive(Debug)]
pub(super) struct Fence(futures_channel::oneshot::Receiver<()>);

/// An open device.
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    tier: DeviceTier,
    fault: Arc<Mutex<Option<GpuError>>>,
    /// What last asked for memory outside of a scope, and for how many bytes: an error that no scope
    /// catches does not say.
    latest: Arc<Mutex<(String, u64)>>,
    accounts: Rc<Accounts>,
    traffic: Cell<Traffic>,
    compile_ahead: Option<CompileAhead>,
}

/// Bytes that a buffer for that many takes.
pub fn buffer_bytes(bytes: u64) -> u64 {
    bytes.max(16).next_multiple_of(16)
}

impl Gpu {
    /// Opens a device.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`], [`GpuError::Software`] and [`GpuError::NoDevice`].
    pub async fn open(options: &GpuOptions) -> Result<Gpu, GpuError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = find_adapter(&instance, options.adapter.as_deref()).await?;
        let info = adapter.get_info();
        let limits = required_limits(&adapter.limits(), options.limits);
        let features = features(adapter.features(), options.limits);
        let tier = DeviceTier::new(&info, &limits, features, &options.told);
        if options.hardware && tier.software {
            return Err(GpuError::Software { adapter: tier.name });
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("bise"),
            required_features: features,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| GpuError::NoDevice { adapter: tier.name.clone(), detail: e.to_string() })?;

        let fault = Arc::new(Mutex::new(None));
        let lost = fault.clone();
        device.set_device_lost_callback(move |reason, detail| {
            if !matches!(reason, wgpu::DeviceLostReason::Destroyed) {
                record(&lost, GpuError::Lost { detail });
            }
        });
        let uncaptured = fault.clone();
        let latest: Arc<Mutex<(String, u64)>> = Arc::default();
        let asked = latest.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            let (label, bytes) = match (&error, asked.lock()) {
                (wgpu::Error::OutOfMemory { .. }, Ok(latest)) => latest.clone(),
                _ => ("a call".to_owned(), 0),
            };
            record(&uncaptured, from_wgpu(&label, bytes, &error));
        }));

        Ok(Gpu {
            device,
            queue,
            tier,
            fault,
            latest,
            accounts: Rc::default(),
            traffic: Cell::default(),
            compile_ahead: options.compile_ahead,
        })
    }

    /// What the device can do.
    pub fn tier(&self) -> &DeviceTier {
        &self.tier
    }

    /// The WebGPU device.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// Its queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// How to compile beside the queue, where there is a way.
    pub(super) fn compile_ahead(&self) -> Option<CompileAhead> {
        self.compile_ahead
    }

    /// What went to and fro since the device was opened.
    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    /// Submits recorded commands, or only the writes so far.
    pub fn submit(&self, commands: Option<wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        let Traffic { submits, read_bytes } = self.traffic.get();
        self.traffic.set(Traffic { submits: submits + 1, read_bytes });
        self.queue.submit(commands)
    }

    pub(super) fn note_read(&self, bytes: u64) {
        let Traffic { submits, read_bytes } = self.traffic.get();
        self.traffic.set(Traffic { submits, read_bytes: read_bytes + bytes });
    }

    /// Bytes allocated now for `purpose`.
    pub fn allocated_bytes(&self, purpose: Purpose) -> u64 {
        self.accounts.cell(purpose).get()
    }

    /// Fails with what has gone wrong behind the program's back: a lost device or
    /// an error that no scope caught.
    ///
    /// # Errors
    /// [`GpuError::Lost`] for ever after a loss; any other error once.
    pub fn check(&self) -> Result<(), GpuError> {
        let Ok(mut fault) = self.fault.lock() else { return Ok(()) };
        match fault.take() {
            None => Ok(()),
            Some(error) => {
                if matches!(error, GpuError::Lost { .. }) {
                    *fault = Some(error.clone());
                }
                Err(error)
            }
        }
    }

    /// Allocates a zeroed buffer. Failure is reported by the next awaited scope or
    /// [`Gpu::check`], since WebGPU reports it late.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`] beyond the binding limit.
    pub fn buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
        purpose: Purpose,
    ) -> Result<GpuBuffer, GpuError> {
        let size = buffer_bytes(bytes);
        if size > self.tier.max_binding_bytes.next_multiple_of(16) {
            return Err(GpuError::TooLarge {
                label: label.into(),
                bytes,
                limit: self.tier.max_binding_bytes,
                advice: "use a shorter context or a device with larger limits",
            });
        }
        self.asks(label, size);
        let raw = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size,
            usage,
            mapped_at_creation: false,
        });
        let account = self.accounts.cell(purpose);
        account.set(account.get() + size);
        Ok(GpuBuffer { raw, purpose, accounts: self.accounts.clone() })
    }

    /// Notes what the device is asked to find memory for.
    pub(super) fn asks(&self, label: &str, bytes: u64) {
        if let Ok(mut latest) = self.latest.lock() {
            latest.0.clear();
            latest.0.push_str(label);
            latest.1 = bytes;
        }
    }

    /// Runs `allocate` and waits for the device's verdict on the buffers it made.
    ///
    /// # Errors
    /// What `allocate` returns, [`GpuError::OutOfMemory`], [`GpuError::Rejected`].
    pub async fn guarded<T>(
        &self,
        label: &str,
        allocate: impl FnOnce() -> Result<T, GpuError>,
    ) -> Result<T, GpuError> {
        let before: u64 = self.accounts.0.iter().map(Cell::get).sum();
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = allocate();
        let after: u64 = self.accounts.0.iter().map(Cell::get).sum();
        let (validation, memory) = (validation.pop(), memory.pop());
        let errors = [validation.await, memory.await];
        if let Some(error) = errors.into_iter().flatten().next() {
            return Err(from_wgpu(label, after.saturating_sub(before), &error));
        }
        self.check()?;
        made
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// What [`Gpu::check`] finds.
    pub async fn idle(&self) -> Result<(), GpuError> {
        self.passed(self.fence()).await
    }

    /// A mark behind all work that was submitted so far.
    pub(super) fn fence(&self) -> Fence {
        let (sender, receiver) = futures_channel::oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            // The receiver is gone only if nobody waits any more.
            let _ = sender.send(());
        });
        Fence(receiver)
    }

    /// Waits until the device has passed a mark; native builds wait for all that was submitted.
    ///
    /// # Errors
    /// What [`Gpu::check`] finds.
    pub(super) async fn passed(&self, fence: Fence) -> Result<(), GpuError> {
        self.poll();
        let _ = fence.0.await;
        self.check()
    }

    /// Drives callbacks on native builds until that submission is done.
    pub(super) fn poll_until(&self, submission: wgpu::SubmissionIndex) {
        let wait = wgpu::PollType::Wait { submission_index: Some(submission), timeout: None };
        let _ = self.device.poll(wait);
    }

    /// Drives callbacks on native builds; browsers do so by themselves.
    pub(super) fn poll(&self) {
        // A failed wait means a lost device, which `check` reports.
        let _ = self.device.poll(wgpu::PollType::wait_indefinitely());
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        self.device.destroy();
    }
}

fn record(slot: &Mutex<Option<GpuError>>, error: GpuError) {
    if let Ok(mut fault) = slot.lock()
        && (fault.is_none() || matches!(error, GpuError::Lost { .. }))
    {
        *fault = Some(error);
    }
}

pub(super) fn from_wgpu(label: &str, bytes: u64, error: &wgpu::Error) -> GpuError {
    match error {
        wgpu::Error::OutOfMemory { .. } => GpuError::OutOfMemory { label: label.into(), bytes },
        other => GpuError::Rejected { label: label.into(), detail: other.to_string() },
    }
}
