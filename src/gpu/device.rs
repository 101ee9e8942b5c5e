//! Adapter, limits and features, decided once; device loss, handled once.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::GpuError;

/// WebGPU's default `maxStorageBufferBindingSize`, bytes.
pub const DEFAULT_BINDING_BYTES: u64 = 128 << 20;

/// Which limits to ask the adapter for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LimitChoice {
    /// Whatever the adapter offers.
    #[default]
    Adapter,
    /// WebGPU's defaults, as on the least of devices.
    Default,
    /// The defaults with storage bindings of at most this many bytes: forces splits in tests.
    Binding(u64),
}

/// How to open a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Part of the adapter's name, case-insensitive; `None`: the system's choice.
    pub adapter: Option<String>,
    /// Limits to ask for.
    pub limits: LimitChoice,
}

/// What the device can do, decided when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTier {
    /// Adapter name or description.
    pub name: String,
    /// Graphics API behind it.
    pub api: String,
    /// Driver, where known.
    pub driver: String,
    /// Whether it computes on the CPU.
    pub software: bool,
    /// Largest storage binding, bytes.
    pub max_binding_bytes: u64,
}

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
}

/// Bytes that a buffer for that many takes.
pub fn buffer_bytes(bytes: u64) -> u64 {
    bytes.max(16).next_multiple_of(16)
}

impl DeviceTier {
    fn new(info: &wgpu::AdapterInfo, limits: &wgpu::Limits) -> DeviceTier {
        DeviceTier {
            name: name_of(info),
            api: format!("{:?}", info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            software: is_software(info),
            max_binding_bytes: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        }
    }

    /// A device of WebGPU's default limits that nothing else is known of.
    pub fn at_default_limits() -> DeviceTier {
        DeviceTier {
            name: String::new(),
            api: String::new(),
            driver: String::new(),
            software: false,
            max_binding_bytes: DEFAULT_BINDING_BYTES,
        }
    }

    /// What the device of these options could do, without opening it.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`].
    pub async fn probe(options: &GpuOptions) -> Result<DeviceTier, GpuError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = find_adapter(&instance, options.adapter.as_deref()).await?;
        Ok(DeviceTier::new(&adapter.get_info(), &required_limits(&adapter.limits(), options.limits)))
    }
}

impl Gpu {
    /// Opens a device.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`] and [`GpuError::NoDevice`].
    pub async fn open(options: &GpuOptions) -> Result<Gpu, GpuError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = find_adapter(&instance, options.adapter.as_deref()).await?;
        let info = adapter.get_info();
        let limits = required_limits(&adapter.limits(), options.limits);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("bise"),
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| GpuError::NoDevice { adapter: info.name.clone(), detail: e.to_string() })?;

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

        let tier = DeviceTier::new(&info, &limits);
        Ok(Gpu { device, queue, tier, fault, latest, accounts: Rc::default() })
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

fn required_limits(adapter: &wgpu::Limits, choice: LimitChoice) -> wgpu::Limits {
    let mut limits = wgpu::Limits::default().or_worse_values_from(adapter);
    match choice {
        LimitChoice::Adapter => {
            limits.max_storage_buffer_binding_size = adapter.max_storage_buffer_binding_size;
            limits.max_buffer_size = adapter.max_buffer_size;
        }
        LimitChoice::Default => {
            limits.max_storage_buffer_binding_size =
                limits.max_storage_buffer_binding_size.min(DEFAULT_BINDING_BYTES);
        }
        LimitChoice::Binding(bytes) => {
            limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(bytes);
        }
    }
    limits
}

/// What to call the adapter. Browsers tell as little as they like, down to nothing.
fn name_of(info: &wgpu::AdapterInfo) -> String {
    let driver = format!("{} {}", info.driver, info.driver_info);
    match (info.name.trim(), driver.trim()) {
        ("", "") => "not told by the browser".into(),
        ("", driver) => driver.into(),
        (name, _) => name.into(),
    }
}

fn is_software(info: &wgpu::AdapterInfo) -> bool {
    let name = info.name.to_lowercase();
    // Browsers do not all set the fallback flag for these.
    info.device_type == wgpu::DeviceType::Cpu
        || ["llvmpipe", "lavapipe", "swiftshader", "microsoft basic render", "warp"]
            .iter()
            .any(|software| name.contains(software))
}

#[cfg(not(target_arch = "wasm32"))]
async fn find_adapter(instance: &wgpu::Instance, wanted: Option<&str>) -> Result<wgpu::Adapter, GpuError> {
    let adapters = instance.enumerate_adapters(wgpu::Backends::PRIMARY).await;
    let names: Vec<String> = adapters.iter().map(|a| a.get_info().name).collect();
    let rank = |adapter: &wgpu::Adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::Cpu => 3,
        _ => 2,
    };
    let matches = |adapter: &wgpu::Adapter| {
        wanted.is_none_or(|part| adapter.get_info().name.to_lowercase().contains(&part.to_lowercase()))
    };
    adapters.into_iter().filter(matches).min_by_key(rank).ok_or_else(|| GpuError::NoAdapter {
        wanted: wanted
            .map_or_else(|| "on this machine".into(), |part| format!("whose name contains {part:?}")),
        found: if names.is_empty() { "none".into() } else { names.join(", ") },
    })
}

#[cfg(target_arch = "wasm32")]
async fn find_adapter(instance: &wgpu::Instance, wanted: Option<&str>) -> Result<wgpu::Adapter, GpuError> {
    let options = wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    };
    let adapter = instance.request_adapter(&options).await.map_err(|e| GpuError::NoAdapter {
        wanted: "in this browser".into(),
        found: format!("none ({e})"),
    })?;
    let name = adapter.get_info().name;
    match wanted {
        Some(part) if !name.to_lowercase().contains(&part.to_lowercase()) => {
            Err(GpuError::NoAdapter { wanted: format!("whose name contains {part:?}"), found: name })
        }
        _ => Ok(adapter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_without_a_name_are_called_something() {
        let with = |name: &str, driver: &str, driver_info: &str| {
            let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::Other, wgpu::Backend::BrowserWebGpu);
            info.name = name.into();
            info.driver = driver.into();
            info.driver_info = driver_info.into();
            name_of(&info)
        };
        assert_eq!(with("Intel Arc", "mesa", "26.1"), "Intel Arc");
        assert_eq!(with("", "mesa", "26.1"), "mesa 26.1");
        assert_eq!(with(" ", "", ""), "not told by the browser");
    }
}
