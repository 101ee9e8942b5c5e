//! A merge as a place to read a checkpoint from: its weight files are computed while they are
//! read, and stored nowhere.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use super::files::{self, COPIED_FILES, SIDE_FILES};
use super::layout::{self, Layouts};
use super::leaf::Cancelled;
use super::parent::Parent;
use super::recipe::Recipe;
use super::report::{MergeReport, TensorReport};
use super::shard::ShardMerge;
use super::tensor::TensorPlan;
use super::{MergeError, on_gpu, plan};
use crate::checkpoint::source::{MemorySource, MemoryStream};
use crate::checkpoint::writer::{self, TensorSpec};
use crate::checkpoint::{ByteSource, ByteStream, Header, Manifest, Opened, SourceError};
use crate::dtype::Dtype;
use crate::gpu::{Gpu, GpuError, GpuOptions};
use crate::kernels::merge::SlerpGpu;

/// A merge that fewer elements has is done on the CPU before a device could be opened and tested.
const LEAST_ELEMENTS: u64 = 1 << 26;

/// Where a merge is computed.
#[derive(Clone, Debug, Default)]
pub enum Arithmetic {
    /// On the CPU.
    #[default]
    Cpu,
    /// On a GPU if there is one that is no software and the merge is large enough, else on the CPU.
    Auto(GpuOptions),
    /// On whatever adapter there is.
    Gpu(GpuOptions),
}

impl Arithmetic {
    /// `elements` is how many the device would merge, in tensors of `dtypes`.
    async fn open(&self, dtypes: &[Dtype], elements: u64) -> Result<Option<SlerpGpu>, GpuError> {
        match self {
            Arithmetic::Cpu => Ok(None),
            // A device that cannot be had is no obstacle: the CPU gives the same result.
            Arithmetic::Auto(_) if elements < LEAST_ELEMENTS => Ok(None),
            Arithmetic::Auto(options) => {
                let options = GpuOptions { hardware: true, ..options.clone() };
                Ok(SlerpGpu::open(&options, &[]).await.ok())
            }
            Arithmetic::Gpu(options) => SlerpGpu::open(options, dtypes).await.map(Some),
        }
    }
}

/// How a merge is done.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// Longest data of a weight file in bytes; a single larger tensor has one of its own.
    pub shard_bytes: u64,
    /// Whether linear weights become F8_E4M3 with one scale per row.
    pub quantize: bool,
    /// Elements that are computed together; never shows in the result.
    pub chunk_elements: usize,
    /// What may be kept of a tensor's operands between two passes, bytes in all; what is not kept is read
    /// again. Never shows in the result.
    pub kept_bytes: u64,
    /// Where to compute.
    pub arithmetic: Arithmetic,
}

impl Default for MergeOptions {
    fn default() -> MergeOptions {
        MergeOptions {
            shard_bytes: 5_000_000_000,
            quantize: false,
            chunk_elements: 1 << 16,
            kept_bytes: 72 << 20,
            arithmetic: Arithmetic::Cpu,
        }
    }
}

/// What a merge tells about itself while it runs.
pub type OnTensor = Box<dyn FnMut(&TensorReport)>;

/// A merge, planned. Clones share their state.
pub struct Merge<S> {
    pub(super) inner: Rc<Inner<S>>,
}

impl<S> Clone for Merge<S> {
    fn clone(&self) -> Self {
        Merge { inner: self.inner.clone() }
    }
}

pub(super) struct Inner<S> {
    pub(super) recipe: Recipe,
    pub(super) parents: Vec<Parent<S>>,
    /// Whose config.json and generation_config.json the result gets.
    base: usize,
    /// Whose tokenizer files the result gets.
    tokenizer: usize,
    pub(super) tensors: HashMap<String, Rc<TensorPlan>>,
    pub(super) plan: writer::Plan,
    /// Files that are neither weights nor copies.
    written: MemorySource,
    /// Those that are copied, where they are there.
    side_files: &'static [&'static str],
    pub(super) options: MergeOptions,
    /// Taken out while a tensor is on it.
    pub(super) gpu: Cell<Option<SlerpGpu>>,
    /// A tensor of as many elements did not fit the device.
    pub(super) gpu_room: Cell<u64>,
    pub(super) cancelled: Cancelled,
    pub(super) report: RefCell<MergeReport>,
    pub(super) on_tensor: Cell<Option<OnTensor>>,
    /// Row scales of quantised tensors, by tensor.
    pub(super) scales: RefCell<HashMap<String, Vec<f32>>>,
}

impl<S: ByteSource + Clone> Merge<S> {
    /// Plans a merge: everything is checked before any weight is read. `text` is the recipe as
    /// given; `parents` are all of [`Recipe::models`].
    ///
    /// # Errors
    /// What does not fit: layers, architectures, shapes, tokenizers, parameters that are missing.
    pub async fn new(
        recipe: Recipe,
        text: &str,
        parents: Vec<Parent<S>>,
        options: MergeOptions,
        cancelled: Cancelled,
        on_tensor: OnTensor,
    ) -> Result<Merge<S>, MergeError> {
        Merge::planned((recipe, Some(text)), parents, options, cancelled, on_tensor).await
    }

    /// Plans a copy of one model: its tensors, its tokenizer, and its own card and licence instead of a
    /// merge's. With [`MergeOptions::quantize`] it is the model as an FP8 checkpoint.
    ///
    /// # Errors
    /// As for [`Merge::new`].
    pub async fn copy(
        parent: Parent<S>,
        options: MergeOptions,
        cancelled: Cancelled,
        on_tensor: OnTensor,
    ) -> Result<Merge<S>, MergeError> {
        let recipe = Recipe::copy_of(parent.name.clone());
        Merge::planned((recipe, None), vec![parent], options, cancelled, on_tensor).await
    }

    async fn planned(
        (recipe, text): (Recipe, Option<&str>),
        parents: Vec<Parent<S>>,
        options: MergeOptions,
        cancelled: Cancelled,
        on_tensor: OnTensor,
    ) -> Result<Merge<S>, MergeError> {
        let layouts = Layouts::new(&recipe, &parents)?;
        let mut tensors = plan::tensors(&recipe, &layouts, &parents)?;
        if options.quantize {
            let linear = tensors.iter_mut().filter(|tensor| files::is_linear(&tensor.name));
            linear.for_each(TensorPlan::round_no_copy);
        }
        let last = recipe.documents.len().saturating_sub(1);
        let base = layouts.base_parent(last);
        let settings = files::Settings { base, layers: layouts.layers(last), quantize: options.quantize };
        let tokenizer = files::tokenizer_parent(&recipe, &layouts, &parents, last).await?;
        let mut written = files::write(&recipe, text, &parents, &tensors, &settings, tokenizer).await?;
        let plan = writer::Plan::from_shards(shards(&tensors, &options)?)?;
        if let Some(index) = plan.index_json() {
            written.insert(crate::checkpoint::index::INDEX_FILE.to_owned(), index.into_bytes());
        }
        let mut warnings = recipe.warnings.clone();
        warnings.extend(layout::warnings(&layouts, &parents, last));
        warnings.extend(files::warnings(&recipe));
        if options.quantize {
            warnings.extend(requantized(&tensors, &parents));
        }
        let report = MergeReport { warnings, ..MergeReport::default() };
        let mut dtypes: Vec<Dtype> = tensors.iter().filter_map(on_gpu::precision).collect();
        let mergeable = tensors.iter().filter(|tensor| on_gpu::precision(tensor).is_some());
        let elements = mergeable.map(TensorPlan::elements).fold(0, u64::saturating_add);
        dtypes.sort_unstable();
        dtypes.dedup();
        let gpu = options.arithmetic.open(&dtypes, elements).await?;
        let tensors = tensors.into_iter().map(|tensor| (tensor.name.clone(), Rc::new(tensor))).collect();
        Ok(Merge {
            inner: Rc::new(Inner {
                recipe,
                parents,
                base,
                tokenizer,
                tensors,
                plan,
                written: MemorySource::new(written),
                side_files: if text.is_some() { &SIDE_FILES } else { &COPIED_FILES },
                options,
                gpu: Cell::new(gpu),
                gpu_room: Cell::new(u64::MAX),
                cancelled,
                report: report.into(),
                on_tensor: Cell::new(Some(on_tensor)),
                scales: RefCell::default(),
            }),
        })
    }

    /// What was strange about the recipe or the models.
    pub fn warnings(&self) -> Vec<String> {
        self.inner.report.borrow().warnings.clone()
    }

    /// Looks at the device that merges; `None` where there is none, or none any more.
    pub fn on_device<T>(&self, look: impl FnOnce(&Gpu) -> T) -> Option<T> {
        let gpu = self.inner.gpu.take()?;
        let seen = look(gpu.gpu());
        self.inner.gpu.set(Some(gpu));
        Some(seen)
    }

    /// Everything done so far.
    pub fn report(&self) -> MergeReport {
        let mut report = self.inner.report.borrow().clone();
        report.total(self.inner.recipe.documents.len());
        report
    }

    /// The result's tensors, known before any is computed.
    ///
    /// # Errors
    /// None in practice: names are unique by construction.
    pub fn manifest(&self) -> Result<Manifest, MergeError> {
        let files = self.inner.plan.shards.iter().map(|shard| (shard.file.clone(), shard.header.clone()));
        Ok(Manifest::of(files.collect::<Vec<(String, Header)>>())?)
    }

    /// Size of all tensors of the result, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.inner.plan.total_bytes()
    }

    /// Every file of the result: first what is small, so that its failure costs no hours; last
    /// config.json and index, without which a directory is no checkpoint. Some of the side files may
    /// not exist.
    pub fn files(&self) -> Vec<String> {
        let weights = self.inner.plan.shards.iter().map(|shard| shard.file.clone());
        let written = self.inner.written.files.keys().rev().cloned();
        let copied = self.inner.side_files.iter().map(|file| (*file).to_owned());
        let copied = copied.filter(|file| !self.inner.written.files.contains_key(file));
        let (last, first): (Vec<_>, Vec<_>) = written.partition(|file| files::makes_a_checkpoint(file));
        copied.chain(first).chain(weights).chain(last).collect()
    }
}

impl<S: ByteSource> Inner<S> {
    /// Lets what is on its way arrive.
    pub(super) async fn turn(&self) {
        if let Some(parent) = self.parents.first() {
            parent.source.turn().await;
        }
    }

    /// Whether there is a device, and no tensor on it.
    pub(super) fn has_gpu(&self) -> bool {
        let gpu = self.gpu.take();
        let has = gpu.is_some();
        self.gpu.set(gpu);
        has
    }
}

/// What FP8 output changes of weights that are FP8 already.
fn requantized<S>(tensors: &[TensorPlan], parents: &[Parent<S>]) -> Vec<String> {
    let copies = tensors.iter().filter(|tensor| tensor.is_fp8_copy(parents));
    let (linear, others): (Vec<_>, Vec<_>) = copies.partition(|tensor| files::is_linear(&tensor.name));
    let anew = linear.iter().filter(|tensor| !tensor.keeps_codes(parents)).count();
    let mut warnings = Vec::new();
    if anew > 0 {
        warnings.push(format!(
            "{anew} FP8 tensors are E5M2 or have several scales in a row; in E4M3 with one scale per row they are \
             rounded once more"
        ));
    }
    if let Some(first) = others.first() {
        let (count, name, dtype) = (others.len(), &first.name, first.dtype);
        warnings.push(format!(
            "{name} ({count} in all) is FP8 and becomes {dtype}: only linear weights are FP8 here"
        ));
    }
    warnings
}

/// Which tensor goes into which file. Scales of quantised tensors get a last file of their own:
/// they are known only once the weights were computed.
fn shards(tensors: &[TensorPlan], options: &MergeOptions) -> Result<Vec<Vec<TensorSpec>>, MergeError> {
    let spec = |tensor: &TensorPlan| TensorSpec {
        name: tensor.name.clone(),
        dtype: if options.quantize && files::is_linear(&tensor.name) { Dtype::F8E4m3 } else { tensor.dtype },
        shape: tensor.shape.clone(),
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let scale = |tensor: &TensorSpec| TensorSpec {
        name: format!("{}{SCALE_SUFFIX}", tensor.name),
        dtype: Dtype::F32,
        shape: vec![tensor.shape.first().copied().unwrap_or(1), 1],
    };
    let scales: Vec<TensorSpec> = specs.iter().filter(|tensor| tensor.dtype.is_f8()).map(scale).collect();
    let mut shards = writer::distribute(specs, options.shard_bytes)?;
    if !scales.is_empty() {
        shards.push(scales);
    }
    Ok(shards)
}

/// Behind a quantised tensor's name, that of its scales.
pub(super) const SCALE_SUFFIX: &str = "_scale";

/// One file of a merge, being read.
pub enum MergedStream<S: ByteSource> {
    /// A small file from memory.
    Written(MemoryStream),
    /// A parent's file, as it is.
    Copied(S::Stream),
    /// Weights.
    Merged(Box<ShardMerge<S>>),
}

impl<S: ByteSource + Clone + 'static> ByteStream for MergedStream<S> {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        match self {
            MergedStream::Written(stream) => stream.next().await,
            MergedStream::Copied(stream) => stream.next().await,
            MergedStream::Merged(stream) => stream.next().await,
        }
    }
}

impl<S: ByteSource + Clone + 'static> ByteSource for Merge<S> {
    type Stream = MergedStream<S>;

    /// What it keeps of operands: no more than there is of them.
    fn memory_bytes(&self) -> u64 {
        let of = |parent: &Parent<S>| parent.manifest.total_bytes();
        self.inner.options.kept_bytes.min(self.inner.parents.iter().map(of).sum())
    }

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<Self::Stream>, SourceError> {
        if let Some(shard) = self.inner.plan.shards.iter().position(|shard| shard.file == file) {
            let stream = ShardMerge::new(self.inner.clone(), shard, range);
            let file_bytes = Some(stream.file_bytes());
            return Ok(Opened::new(MergedStream::Merged(Box::new(stream)), file_bytes));
        }
        if self.inner.written.files.contains_key(file) {
            return Ok(self.inner.written.open(file, range).await?.map(MergedStream::Written));
        }
        let not_found = || SourceError::NotFound { file: file.to_owned() };
        if !self.inner.side_files.contains(&file) {
            return Err(not_found());
        }
        let inner = &self.inner;
        let parent = if file == files::GENERATION_CONFIG { inner.base } else { inner.tokenizer };
        let parent = inner.parents.get(parent).ok_or_else(not_found)?;
        Ok(parent.source.open(file, range).await?.map(MergedStream::Copied))
    }
}
