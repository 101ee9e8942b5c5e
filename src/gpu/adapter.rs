//! Adapter, limits and features, decided once.

use serde::Deserialize;

use super::{CompileAhead, GpuError};

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

/// How to open a device; a browser's client says what it was told, native callers the rest.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GpuOptions {
    /// Part of the adapter's name, case-insensitive; `None`: the system's choice.
    #[serde(skip)]
    pub adapter: Option<String>,
    /// Limits to ask for.
    #[serde(skip)]
    pub limits: LimitChoice,
    /// Whether an adapter that computes on the CPU is as good as none.
    #[serde(skip)]
    pub hardware: bool,
    /// How to compile beside the device's queue, where there is a way.
    #[serde(skip)]
    pub compile_ahead: Option<CompileAhead>,
    /// What else is known of the adapter.
    pub told: Told,
}

/// What a browser tells of its adapter that wgpu does not hand on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Told {
    /// A description, or maker and family; empty where it says nothing.
    pub name: String,
    /// Whether it says that the adapter is a fallback.
    pub fallback: bool,
    /// Whether it offers none, since the page came over a line that can be listened to.
    pub insecure: bool,
    /// All that it says of which adapter it is; empty where it says nothing.
    pub identity: String,
    /// Threads that every subgroup has, where devices get subgroups; else 0.
    pub subgroup: u32,
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
    /// Whether passes can be timed on the device.
    pub timestamps: bool,
    /// Threads that every subgroup has, a power of two, where shaders may use subgroups; else 0.
    pub subgroup: u32,
    /// Which adapter it is, as far as anything tells, and its binding limit: what holds for one device need not
    /// for another.
    pub identity: String,
}

impl DeviceTier {
    pub(super) fn new(
        info: &wgpu::AdapterInfo,
        limits: &wgpu::Limits,
        features: wgpu::Features,
        told: &Told,
    ) -> DeviceTier {
        let max_binding_bytes = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let wgpu::AdapterInfo { name, vendor, device, driver, driver_info, backend, .. } = info;
        let numbers = format!("{backend:?} {vendor:x}:{device:x}, bindings of {max_binding_bytes}");
        let texts = [name, driver, driver_info, &told.identity, &numbers].map(|text| text.trim());
        let identity: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        DeviceTier {
            identity: identity.join(", "),
            name: name_of(info, told),
            api: format!("{:?}", info.backend),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            software: is_software(info, told),
            max_binding_bytes,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            subgroup: subgroup(info, features, told),
        }
    }

    /// Whether integer products are faster than shifts, and than the shader's own conversion of f16: SwiftShader shifts
    /// vectors lane by lane and converts in some twenty instructions.
    pub fn slow_shifts(&self) -> bool {
        self.software && self.name.to_lowercase().contains("swiftshader")
    }

    /// A device of WebGPU's default limits that nothing else is known of.
    pub fn at_default_limits() -> DeviceTier {
        DeviceTier {
            name: String::new(),
            api: String::new(),
            driver: String::new(),
            software: false,
            max_binding_bytes: DEFAULT_BINDING_BYTES,
            timestamps: false,
            subgroup: 0,
            identity: String::new(),
        }
    }

    /// What the device of these options could do, without opening it.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`].
    pub async fn probe(options: &GpuOptions) -> Result<DeviceTier, GpuError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = find_adapter(&instance, options.adapter.as_deref()).await?;
        let limits = required_limits(&adapter.limits(), options.limits);
        let features = features(adapter.features(), options.limits);
        Ok(DeviceTier::new(&adapter.get_info(), &limits, features, &options.told))
    }
}

/// What to ask for of what an adapter has: nothing that is optional where the least of devices is wanted.
pub(super) fn features(adapter: wgpu::Features, choice: LimitChoice) -> wgpu::Features {
    match choice {
        // For the bench's profile: times cost nothing where nobody asks for them. And for sums of neighbours.
        LimitChoice::Adapter => adapter & (wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SUBGROUP),
        _ => wgpu::Features::empty(),
    }
}

pub(super) fn required_limits(adapter: &wgpu::Limits, choice: LimitChoice) -> wgpu::Limits {
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

/// wgpu cannot ask a browser for subgroups: there the page asks, and tells (www/bise/subgroups.js).
fn subgroup(info: &wgpu::AdapterInfo, features: wgpu::Features, told: &Told) -> u32 {
    let least = match features.contains(wgpu::Features::SUBGROUP) {
        true => info.subgroup_min_size,
        false => told.subgroup,
    };
    if least.is_power_of_two() && (4..=128).contains(&least) { least } else { 0 }
}

/// What to call the adapter. Browsers tell as little as they like, down to nothing.
fn name_of(info: &wgpu::AdapterInfo, told: &Told) -> String {
    let driver = format!("{} {}", info.driver, info.driver_info);
    let names = [&info.name, &told.name, &driver].map(|name| name.trim());
    names.into_iter().find(|name| !name.is_empty()).unwrap_or("not told by the browser").into()
}

fn is_software(info: &wgpu::AdapterInfo, told: &Told) -> bool {
    let name = format!("{} {}", info.name, told.name).to_lowercase();
    // Browsers do not all set the fallback flag for these.
    told.fallback
        || info.device_type == wgpu::DeviceType::Cpu
        || ["llvmpipe", "lavapipe", "swiftshader", "microsoft basic render", "warp"]
            .iter()
            .any(|software| name.contains(software))
}

#[cfg(not(target_arch = "wasm32"))]
pub(super) async fn find_adapter(
    instance: &wgpu::Instance,
    wanted: Option<&str>,
) -> Result<wgpu::Adapter, GpuError> {
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
pub(super) async fn find_adapter(
    instance: &wgpu::Instance,
    wanted: Option<&str>,
) -> Result<wgpu::Adapter, GpuError> {
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
        let with = |name: &str, told: &str, driver: &str| {
            let mut info = wgpu::AdapterInfo::new(wgpu::DeviceType::Other, wgpu::Backend::BrowserWebGpu);
            info.name = name.into();
            info.driver = driver.into();
            name_of(&info, &Told { name: told.into(), ..Told::default() })
        };
        assert_eq!(with("Intel Arc", "intel gen-12lp", "mesa"), "Intel Arc");
        assert_eq!(with("", "intel gen-12lp", "mesa"), "intel gen-12lp");
        assert_eq!(with("", "", "mesa"), "mesa");
        assert_eq!(with(" ", "", ""), "not told by the browser");
    }

    #[test]
    fn one_adapter_shifts_slowly() {
        let slow = |name: &str, software| {
            DeviceTier { name: name.into(), software, subgroup: 4, ..DeviceTier::at_default_limits() }
                .slow_shifts()
        };
        assert!(slow("google swiftshader", true) && slow("SwiftShader Device (LLVM 10.0.0)", true));
        assert!(!slow("llvmpipe (LLVM 15.0.6, 128 bits)", true));
        assert!(!slow("Microsoft Basic Render Driver", true));
        assert!(!slow("Apple M2", false));
    }

    /// As Chromium and Firefox were seen to describe theirs, and as older ones do, without the flag.
    #[test]
    fn adapters_that_compute_on_the_processor_are_known() {
        let software = |name: &str, device_type, told: &str, fallback| {
            let mut info = wgpu::AdapterInfo::new(device_type, wgpu::Backend::BrowserWebGpu);
            info.name = name.into();
            is_software(&info, &Told { name: told.into(), fallback, ..Told::default() })
        };
        let other = wgpu::DeviceType::Other;
        assert!(software("", wgpu::DeviceType::Cpu, "google swiftshader", true));
        assert!(software("", other, "google swiftshader", false));
        assert!(software("", other, "microsoft warp", false));
        assert!(software("", other, "", true));
        assert!(software("llvmpipe (LLVM 21.1.8, 256 bits)", other, "", false));
        assert!(!software("", other, "", false));
        assert!(!software("NVIDIA H100", wgpu::DeviceType::DiscreteGpu, "nvidia hopper", false));
    }
}
