//! Kernel -> pipeline: composed once, compiled once, counted while compiling.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

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
    /// The composed WGSL.
    pub fn source(&self) -> String {
        self.parts.concat()
    }
}

/// Index of a compiled kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pipeline(usize);

struct Compiled {
    kernel: Kernel,
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

type Verdict = Pin<Box<dyn Future<Output = Option<wgpu::Error>>>>;

/// The compiled kernels of one device.
#[derive(Default)]
pub struct Kernels {
    compiled: Vec<Compiled>,
    modules: HashMap<String, wgpu::ShaderModule>,
    /// Compilations the device has not yet judged: kernel name and verdict.
    pending: Vec<(&'static str, Verdict)>,
}

impl Kernels {
    /// Finds a kernel that has been started.
    pub fn find(&self, kernel: &Kernel) -> Option<Pipeline> {
        self.compiled.iter().position(|c| c.kernel == *kernel).map(Pipeline)
    }

    /// Starts to compile a kernel, unless that has been done. Browsers compile in the
    /// background until [`Kernels::finish`] asks for the verdict.
    pub fn start(&mut self, gpu: &Gpu, kernel: Kernel) -> Pipeline {
        if let Some(found) = self.find(&kernel) {
            return found;
        }
        let device = gpu.device();
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let module = self.modules.entry(kernel.source()).or_insert_with_key(|source| {
            device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name),
                source: wgpu::ShaderSource::Wgsl(source.as_str().into()),
            })
        });
        let layout = bind_group_layout(device, &kernel);
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
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
        });
        let (internal, validation) = (internal.pop(), validation.pop());
        let verdict = async move {
            let internal = internal.await;
            validation.await.or(internal)
        };
        self.pending.push((kernel.name, Box::pin(verdict)));
        self.compiled.push(Compiled { kernel, pipeline, layout });
        Pipeline(self.compiled.len() - 1)
    }

    /// Waits for every started compilation; `progress` hears how many are done, of how many. A
    /// device compiles in order, and each verdict comes when its kernel is ready.
    ///
    /// # Errors
    /// [`GpuError::Rejected`] with the compiler's message.
    pub async fn finish(&mut self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), GpuError> {
        let pending = std::mem::take(&mut self.pending);
        let total = pending.len() as u64;
        progress(0, total);
        for (done, (name, verdict)) in (1..).zip(pending) {
            if let Some(error) = verdict.await {
                return Err(from_wgpu(name, 0, &error));
            }
            progress(done, total);
        }
        Ok(())
    }

    /// Number of pipelines.
    pub fn len(&self) -> usize {
        self.compiled.len()
    }

    /// Whether nothing has been compiled.
    pub fn is_empty(&self) -> bool {
        self.compiled.is_empty()
    }

    /// The WebGPU pipeline.
    pub fn raw(&self, pipeline: Pipeline) -> Option<&wgpu::ComputePipeline> {
        self.compiled.get(pipeline.0).map(|c| &c.pipeline)
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
