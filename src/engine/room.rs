//! What a device has room for, before anything of a model is on it.

use super::cached::Kept;
use super::load::context_length;
use super::types::{BackendChoice, WeightMode};
use super::{EngineError, LoadOptions};
use crate::cpu::Cpu;
use crate::gpu::{DeviceTier, GpuError};
use crate::kernels::WebGpu;
use crate::model::{Config, ModelError, Precision, WeightPlan};
use crate::steps::{CacheForm, DecoderShape};

/// Where a model would run.
#[derive(Clone, Copy)]
pub(super) enum Room<'a> {
    Gpu(&'a DeviceTier),
    Cpu,
}

impl<'a> Room<'a> {
    /// Where [`Device::open`](super::backend::Device::open) would open a device, of the adapter there is;
    /// with the reason, where the options leave the choice.
    pub fn of(
        options: &LoadOptions,
        tier: Option<&'a DeviceTier>,
        least: &'a DeviceTier,
    ) -> (Room<'a>, Option<String>) {
        let on_gpu = Room::Gpu(tier.unwrap_or(least));
        if options.backend == BackendChoice::Cpu {
            return (Room::Cpu, None);
        }
        if !options.is_free() {
            return (on_gpu, None);
        }
        if let Some(reason) = options.why_cpu() {
            return (Room::Cpu, Some(reason.into()));
        }
        match tier {
            None => (Room::Cpu, Some("there is no WebGPU adapter here".into())),
            Some(tier) if tier.software => {
                (Room::Cpu, Some(GpuError::Software { adapter: tier.name.clone() }.to_string()))
            }
            Some(_) => (on_gpu, Some(HARDWARE.into())),
        }
    }

    /// The form that weights take there, where the options leave it open.
    fn weights(self, wanted: WeightMode) -> Result<WeightMode, EngineError> {
        match (wanted, self) {
            (WeightMode::Auto, Room::Gpu(_)) => Ok(WeightMode::F8),
            (WeightMode::Auto, Room::Cpu) => Ok(WeightMode::I8),
            (WeightMode::I8, Room::Gpu(_)) => Err(EngineError::BadRequest(
                "weights \"i8\" are for the CPU; on WebGPU take \"f8\" or \"checkpoint\"".into(),
            )),
            (wanted, _) => Ok(wanted),
        }
    }

    /// The form that weights take in a load, and the plan of it: what is wanted, or what suits the place. Where that
    /// is open, the CPU takes what a GPU's visit kept: it is not fetched again.
    pub fn form(
        self,
        wanted: WeightMode,
        kept: &Kept,
        plan_as: &dyn Fn(Precision) -> Result<WeightPlan, ModelError>,
    ) -> Result<(WeightMode, WeightPlan), EngineError> {
        let form = self.weights(wanted)?;
        if wanted == WeightMode::Auto && form == WeightMode::I8 {
            let plan = plan_as(Precision::F8)?;
            if kept.holds(&plan) {
                return Ok((WeightMode::F8, plan));
            }
        }
        Ok((form, plan_as(form.precision())?))
    }

    /// Largest piece of memory in bytes.
    pub fn max_buffer_bytes(self) -> u64 {
        match self {
            Room::Gpu(tier) => tier.max_binding_bytes,
            Room::Cpu => u64::MAX,
        }
    }

    /// The decoder's sizes there, for that many positions in that form.
    pub fn shape(self, config: &Config, context: u32, kv_cache: CacheForm) -> DecoderShape {
        let mut shape = DecoderShape { kv_cache, ..config.shape(context) };
        shape.max_batch = match self {
            Room::Gpu(tier) => WebGpu::max_batch(tier, &shape),
            Room::Cpu => Cpu::max_batch(&shape),
        };
        shape
    }

    /// Positions for which the caches of a layer fit the device's buffers.
    pub fn largest_context(self, config: &Config, kv_cache: CacheForm) -> u32 {
        self.shape(config, config.max_positions, kv_cache).largest_context(self.max_buffer_bytes())
    }

    /// The decoder's sizes for the context that is wanted, or as much as is usual.
    pub fn shape_for(self, config: &Config, options: &LoadOptions) -> Result<DecoderShape, EngineError> {
        let largest = self.largest_context(config, options.kv_cache);
        Ok(self.shape(config, context_length(config, options.context_length, largest)?, options.kv_cache))
    }

    /// Bytes for the weights, where one buffer holds `limit` bytes.
    pub fn weight_bytes(self, plan: &WeightPlan, limit: u64) -> Result<u64, GpuError> {
        match self {
            Room::Gpu(_) => plan.device_bytes(limit),
            Room::Cpu => Ok(plan.host_bytes()),
        }
    }

    /// Bytes for key/value cache and for activations.
    pub fn memory(self, shape: &DecoderShape) -> [u64; 2] {
        match self {
            Room::Gpu(tier) => WebGpu::memory(tier, shape),
            Room::Cpu => Cpu::memory(shape),
        }
    }

    /// Refuses what cannot fit: activations beyond the device's bindings, a model beyond the memory that
    /// WebAssembly can have. How much memory a device has no API tells.
    pub fn check(self, shape: &DecoderShape, weight_bytes: u64) -> Result<(), EngineError> {
        match self {
            Room::Gpu(tier) => Ok(WebGpu::check_limits(tier, shape)?),
            Room::Cpu => {
                let [kv_cache, activations] = Cpu::memory(shape);
                Ok(Cpu::check([weight_bytes, kv_cache, activations])?)
            }
        }
    }
}

/// Why WebGPU, where the choice was free.
pub(super) const HARDWARE: &str = "there is a graphics adapter with WebGPU";
