//! Kernel -> pipeline: composed once, compiled once, counted while compiling.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use futures_util::FutureExt;

use super::device::from_wgpu;
use super::{Gpu, GpuBuffer, GpuError};

/// How a kernel touches a storage buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `var<storage, read>`
    Read,
    /// `var<storage, read_write>`
    ReadWrite,
}

/// What is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// `var<uniform>` of this many bytes.
    Uniform(u64),
    /// A storage buffer.
    Storage(Access),
}

/// One entry of group 0; its index is its place in the kernel's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Name of the variable in the WGSL.
    pub name: &'static str,
    /// Its kind.
    pub kind: BindingKind,
}

impl Binding {
    /// A uniform of `bytes` bytes.
    pub const fn uniform(name: &'static str, bytes: usize) -> Binding {
        Binding { name, kind: BindingKind::Uniform(bytes as u64) }
    }

    /// A storage buffer that is only read.
    pub const fn read(name: &'static str) -> Binding {
        Binding { name, kind: BindingKind::Storage(Access::Read) }
    }

    /// A storage buffer that is written.
    pub const fn write(name: &'static str) -> Binding {
        Binding { name, kind: BindingKind::Storage(Access::ReadWrite) }
    }
}

/// A kernel as it is to be compiled: parts of WGSL, joined, with override constants.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Name of the .wgsl file, the entry point and the label.
    pub name: &'static str,
    /// WGSL parts in order.
    pub parts: Vec<&'static str>,
    /// Values of `override` constants.
    pub constants: Vec<(&'static str, f64)>,
    /// Group 0.
    pub bindings: &'static [Binding],
}

impl Kernel {
    /// The composed WGSL. Browsers want subgroups enabled; natively the compiler refuses to be told.
    pub fn source(&self) -> String {
        let enables =
            cfg!(target_arch = "wasm32") && self.parts.iter().any(|part| part.contains("subgroupShuffleXor"));
        let directive = if enables { "enable subgroups;\n" } else { "" };
        [directive, &self.parts.concat()].concat()
    }
}

/// Index of a compiled kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pipeline(usize);

/// What hands a pipeline over that was compiled ahead: it is called right before the device is asked for it.
pub type HandOver = Box<dyn FnOnce()>;

/// Compiles a kernel beside the device's queue, or tells why it cannot be. The blocking call, the only one
/// that wgpu has, makes everything behind it in a browser's queue wait.
pub type CompileAhead = fn(&Gpu, &Kernel) -> Pin<Box<dyn Future<Output = Result<HandOver, String>>>>;

struct Compiled {
    kernel: Kernel,
    /// `None` while it is compiled ahead.
    pipeline: Option<wgpu::ComputePipeline>,
    layout: wgpu::BindGroupLayout,
}

/// What a compilation came to.
enum Came {
    /// The device has judged it.
    Judged(Option<wgpu::Error>),
    /// It was compiled ahead, and the device is to be asked for it.
    Ahead(Result<HandOver, String>, wgpu::Device),
}

type Coming = Pin<Box<dyn Future<Output = Came>>>;

/// The compiled kernels of one device.
#[derive(Default)]
pub struct Kernels {
    compiled: Vec<Compiled>,
    modules: HashMap<String, wgpu::ShaderModule>,
    pending: Vec<(Pipeline, Coming)>,
}

impl Kernels {
    /// Finds a kernel that has been started.
    pub fn find(&self, kernel: &Kernel) -> Option<Pipeline> {
        self.compiled.iter().position(|c| c.kernel == *kernel).map(Pipeline)
    }

    /// Starts to compile a kernel, unless that has been done. It may be bound at once, and is in
    /// [`Kernels::raw`] when a wait for it has ended.
    pub fn start(&mut self, gpu: &Gpu, kernel: Kernel) -> Pipeline {
        if let Some(found) = self.find(&kernel) {
            return found;
        }
        let layout = bind_group_layout(gpu.device(), &kernel);
        let index = Pipeline(self.compiled.len());
        let ahead = gpu.compile_ahead().map(|ahead| -> Coming {
            let (compiling, device) = (ahead(gpu, &kernel), gpu.device().clone());
            Box::pin(async move { Came::Ahead(compiling.await, device) })
        });
        self.compiled.push(Compiled { kernel, pipeline: None, layout });
        let coming = ahead.or_else(|| self.create(index, gpu.device()));
        self.pending.extend(coming.map(|coming| (index, coming)));
        index
    }

    /// Asks the device for a pipeline.
    fn create(&mut self, Pipeline(index): Pipeline, device: &wgpu::Device) -> Option<Coming> {
        let Compiled { kernel, pipeline, layout } = self.compiled.get_mut(index)?;
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let module = self.modules.entry(kernel.source()).or_insert_with_key(|source| {
            device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name),
                source: wgpu::ShaderSource::Wgsl(source.as_str().into()),
            })
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(layout)],
            immediate_size: 0,
        });
        *pipeline = Some(device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module,
            entry_point: Some(kernel.name),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &kernel.constants,
                // No kernel reads what it has not written. Browsers zero it all the same.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        }));
        let (internal, validation) = (internal.pop(), validation.pop());
        Some(Box::pin(async move {
            let internal = internal.await;
            Came::Judged(validation.await.or(internal))
        }))
    }

    /// Takes what a compilation came to; returns what is left to do of it.
    fn settle(&mut self, index: Pipeline, came: Came) -> Result<Option<Coming>, GpuError> {
        let name = self.name(index);
        match came {
            Came::Judged(Some(error)) => Err(from_wgpu(name, 0, &error)),
            Came::Judged(None) => Ok(None),
            Came::Ahead(Err(detail), _) => Err(GpuError::Rejected { label: name.into(), detail }),
            Came::Ahead(Ok(hand_over), device) => {
                hand_over();
                Ok(self.create(index, &device))
            }
        }
    }

    /// Waits for every started compilation; `progress` hears how many are done, of how many.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] with the compiler's message.
    pub async fn finish(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), GpuError> {
        let all: Vec<Pipeline> = self.pending.iter().map(|(index, _)| *index).collect();
        self.wait(&all, progress).await
    }

    /// Waits for the compilation of these; `progress` hears how many are done, of how many.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] with the compiler's message.
    pub async fn wait(
        &mut self,
        wanted: &[Pipeline],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), GpuError> {
        let total = wanted.len() as u64;
        progress(0, total);
        for (done, index) in (1..).zip(wanted) {
            while let Some(at) = self.pending.iter().position(|(pending, _)| pending == index) {
                let (index, coming) = self.pending.swap_remove(at);
                let came = coming.await;
                let rest = self.settle(index, came)?;
                self.pending.extend(rest.map(|rest| (index, rest)));
            }
            progress(done, total);
        }
        Ok(())
    }

    /// Whether these are compiled, without waiting.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] with the compiler's message.
    pub fn are_ready(&mut self, wanted: &[Pipeline]) -> Result<bool, GpuError> {
        let mut at = 0;
        while let Some((index, coming)) = self.pending.get_mut(at) {
            let index = *index;
            let came = if wanted.contains(&index) { coming.now_or_never() } else { None };
            let Some(came) = came else {
                at += 1;
                continue;
            };
            drop(self.pending.swap_remove(at));
            let rest = self.settle(index, came)?;
            self.pending.extend(rest.map(|rest| (index, rest)));
        }
        Ok(!self.pending.iter().any(|(index, _)| wanted.contains(index)))
    }

    /// Number of pipelines.
    pub fn len(&self) -> usize {
        self.compiled.len()
    }

    /// Whether nothing has been compiled.
    pub fn is_empty(&self) -> bool {
        self.compiled.is_empty()
    }

    /// The WebGPU pipeline; `None` while it is compiled ahead.
    pub fn raw(&self, pipeline: Pipeline) -> Option<&wgpu::ComputePipeline> {
        self.compiled.get(pipeline.0).and_then(|c| c.pipeline.as_ref())
    }

    /// Name of a pipeline's kernel.
    pub fn name(&self, pipeline: Pipeline) -> &'static str {
        self.compiled.get(pipeline.0).map_or("", |c| c.kernel.name)
    }

    /// Binds `buffers`, in the kernel's order, whole.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] if their number is not the kernel's.
    pub fn bind(
        &self,
        gpu: &Gpu,
        pipeline: Pipeline,
        buffers: &[&GpuBuffer],
    ) -> Result<wgpu::BindGroup, GpuError> {
        let Some(compiled) = self.compiled.get(pipeline.0) else {
            return Err(GpuError::Rejected { label: "bind".into(), detail: "no such pipeline".into() });
        };
        let kernel = &compiled.kernel;
        if buffers.len() != kernel.bindings.len() {
            let detail = format!("{} buffers for {} bindings", buffers.len(), kernel.bindings.len());
            return Err(GpuError::Rejected { label: kernel.name.into(), detail });
        }
        let entries: Vec<wgpu::BindGroupEntry> = buffers
            .iter()
            .zip(0..)
            .map(|(buffer, binding)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.raw().as_entire_binding(),
            })
            .collect();
        Ok(gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(kernel.name),
            layout: &compiled.layout,
            entries: &entries,
        }))
    }
}

fn bind_group_layout(device: &wgpu::Device, kernel: &Kernel) -> wgpu::BindGroupLayout {
    let entries: Vec<wgpu::BindGroupLayoutEntry> = kernel
        .bindings
        .iter()
        .zip(0..)
        .map(|(binding, index)| wgpu::BindGroupLayoutEntry {
            binding: index,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer {
                ty: match binding.kind {
                    BindingKind::Uniform(_) => wgpu::BufferBindingType::Uniform,
                    BindingKind::Storage(access) => {
                        wgpu::BufferBindingType::Storage { read_only: access == Access::Read }
                    }
                },
                has_dynamic_offset: false,
                min_binding_size: None,
            },
            count: None,
        })
        .collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(kernel.name),
        entries: &entries,
    })
}
