//! A load into memory, with a source that counts, tears off and flips bits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use bise::checkpoint::source::read_all;
use bise::checkpoint::storage::StoredFile;
use bise::checkpoint::{ByteSource, ByteStream, CheckpointError, Manifest, Opened, SourceError};
use bise::engine::fill::Target;
use bise::engine::types::{CacheReport, CacheState};
use bise::engine::{CacheFiles, CachedSource, Kept, Trust};
use bise::model::weights::LoadError;
use bise::model::{Config, Precision, WeightPlan, Weights};
use pollster::block_on;
use sha2::{Digest, Sha256};

use crate::common::recorder::{Never, Recorder};
use crate::common::synthetic::SyntheticSource;
use crate::disk::Disk;

/// Points lie this far apart here; chunks have 1 MiB.
pub const POINT_BYTES: u64 = 2 << 20;

pub const CONFIG: &str = r#"{"model_type": "mistral", "architectures": ["MistralForCausalLM"], "hidden_size": 256,
    "intermediate_size": 3072, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 64, "vocab_size": 6000, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "bfloat16",
    "bos_token_id": 1, "eos_token_id": 2, "sliding_window": null}"#;

pub fn model() -> SyntheticSource {
    SyntheticSource::new(CONFIG, 3)
}

/// A file's SHA-256, by way of another reader than the one under test.
pub fn sha256_of(source: &SyntheticSource, file: &str) -> String {
    let bytes = block_on(read_all(source, file, None, u64::MAX)).unwrap();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The weight files' names.
pub fn weight_files(source: &SyntheticSource) -> Vec<String> {
    block_on(Manifest::read(source)).unwrap().shards.iter().map(|shard| shard.file.clone()).collect()
}

/// The model on a server.
#[derive(Clone)]
pub struct Server {
    pub model: SyntheticSource,
    /// Nothing comes any more once its power is cut.
    pub disk: Disk,
    pub is_down: Rc<Cell<bool>>,
    /// What it tells with every file; nothing if it is empty.
    pub validator: Rc<RefCell<String>>,
    /// The bit to flip, in that file.
    pub flip: Rc<RefCell<Option<(String, u64)>>>,
    /// Bytes of weight files that went out.
    pub sent: Rc<Cell<u64>>,
    /// How many times something was asked for.
    pub requests: Rc<Cell<u64>>,
}

impl Server {
    pub fn new(disk: &Disk) -> Server {
        Server {
            model: model(),
            disk: disk.clone(),
            is_down: Rc::default(),
            validator: Rc::new(RefCell::new("\"1\"".to_owned())),
            flip: Rc::default(),
            sent: Rc::default(),
            requests: Rc::default(),
        }
    }
}

impl ByteSource for Server {
    type Stream = Body;

    async fn open(&self, file: &str, range: Option<Range<u64>>) -> Result<Opened<Body>, SourceError> {
        self.requests.set(self.requests.get() + 1);
        if self.is_down.get() || self.disk.is_cut() {
            return Err(SourceError::Network { file: file.to_owned(), detail: "down".to_owned() });
        }
        let at = range.as_ref().map_or(0, |range| range.start);
        let opened = self.model.open(file, range).await?;
        let validator = Some(self.validator.borrow().clone()).filter(|told| !told.is_empty());
        let (server, file) = (self.clone(), file.to_owned());
        Ok(Opened { validator, ..opened.map(|inner| Body { inner, server, file, at }) })
    }
}

pub struct Body {
    inner: <SyntheticSource as ByteSource>::Stream,
    server: Server,
    file: String,
    at: u64,
}

impl ByteStream for Body {
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        if self.server.is_down.get() || self.server.disk.is_cut() {
            return Err(SourceError::Network { file: self.file.clone(), detail: "down".to_owned() });
        }
        let mut piece = self.inner.next().await?;
        if let Some(bytes) = &mut piece {
            if self.file.ends_with(".safetensors") {
                self.server.sent.set(self.server.sent.get() + bytes.len() as u64);
            }
            if let Some((file, bit)) = &*self.server.flip.borrow()
                && *file == self.file
                && (self.at..self.at + bytes.len() as u64).contains(&(bit / 8))
            {
                bytes[(bit / 8 - self.at) as usize] ^= 1 << (bit % 8);
            }
            self.at += bytes.len() as u64;
        }
        Ok(piece)
    }
}

/// What a load gave.
pub struct Loaded {
    pub weights: Recorder,
    pub cache: CacheReport,
    pub hashes: BTreeMap<String, String>,
}

/// How to load.
#[derive(Clone)]
pub struct Options {
    pub precision: Precision,
    pub trust: Trust,
    pub fresh: bool,
    pub identified: bool,
    pub free_bytes: Option<u64>,
    pub point_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        let trust = Trust::default();
        let (precision, free_bytes) = (Precision::F8, None);
        Options { precision, trust, fresh: true, identified: false, free_bytes, point_bytes: POINT_BYTES }
    }
}

pub fn files(disk: &Disk, options: &Options) -> CacheFiles {
    with_files(disk.open("pack"), disk.open("journal"), options)
}

thread_local!(static SALT: Cell<u64> = const { Cell::new(1) });

pub fn with_files(pack: Box<dyn StoredFile>, journal: Box<dyn StoredFile>, options: &Options) -> CacheFiles {
    SALT.set(SALT.get() + 1);
    CacheFiles {
        pack,
        journal,
        fresh: options.fresh,
        identified: options.identified,
        free_bytes: options.free_bytes,
        salt: SALT.get(),
        point_bytes: options.point_bytes,
        on_start: Box::new(|_, _, _| ()),
        on_replace: Box::new(|| Box::pin(async {})),
    }
}

/// Loads from the server, kept in `files`.
pub fn load(
    server: &Server,
    files: Option<CacheFiles>,
    options: &Options,
) -> Result<Loaded, LoadError<Never>> {
    let kept = Rc::new(Kept::new(options.trust.clone(), files));
    let source = CachedSource::new(server.clone(), kept.clone());
    block_on(async {
        let failed = |error: SourceError| LoadError::from(CheckpointError::from(error));
        let json = read_all(&source, "config.json", None, 1 << 20).await.map_err(failed)?;
        // A file that is not there is remembered, too.
        let absent = read_all(&source, "generation_config.json", None, 1 << 20).await;
        assert!(absent.is_err());
        let config = Config::parse(&json)?;
        let manifest = Manifest::read(&source).await?;
        let config_json = serde_json::from_slice(&json).unwrap();
        let plan = WeightPlan::new(&config, &config_json, &manifest, options.precision)?;
        let mut backend = Recorder::default();
        let weights = Weights::allocate(&plan, &mut backend).map_err(LoadError::Backend)?;
        let mut target = Target { plan: &plan, weights: &weights, backend: &mut backend };
        let (mut last, total) = (0, manifest.total_bytes());
        let mut report = |done| {
            assert!(done <= total, "{done} of {total}");
            last = done;
        };
        kept.fill(&source, &manifest, &mut target, &|| false, &mut report).await?;
        assert_eq!(last, total, "progress ends at the end");
        assert!(backend.is_full());
        Ok(Loaded { weights: backend, cache: kept.report(), hashes: kept.hashes() })
    })
}

/// Loads and keeps on `disk`.
pub fn load_kept(server: &Server, disk: &Disk, options: &Options) -> Result<Loaded, LoadError<Never>> {
    load(server, Some(files(disk, options)), options)
}

/// The weights as they must be.
pub fn truth(options: &Options) -> Recorder {
    load(&Server::new(&Disk::default()), None, options).unwrap().weights
}

/// Whether a load had the state.
#[track_caller]
pub fn assert_state(loaded: &Loaded, state: CacheState) {
    assert_eq!(loaded.cache.state, state, "{:?}", loaded.cache.note);
}
