//! config.json and generation_config.json -> [`Config`]. What is not implemented is an
//! error that names it, never a default.

use serde_json::{Map, Value};

use super::error::ModelError;
use super::rope::{RopeScaling, inv_freq};
use crate::kernels::attend::MAX_HEAD_DIM;
use crate::steps::{CacheForm, DecoderShape};

/// Name of the file that holds a model's hyperparameters.
pub const CONFIG_FILE: &str = "config.json";
/// Name of the file that holds a checkpoint's sampling defaults.
pub const GENERATION_FILE: &str = "generation_config.json";

/// Largest width in a config, and largest vocabulary: keeps 32-bit shader indices honest and every
/// dispatch within WebGPU's 65535 workgroups.
const MAX_SIZE: u64 = 1 << 20;

/// Most positions of a model and of its window.
const MAX_POSITIONS: u64 = 1 << 24;

/// Most heads, and largest width of all of them: attention dispatches a workgroup for every few
/// queries of every head. The largest model of the family has 128 heads of 128.
const MAX_HEADS: u32 = 1024;
const MAX_ATTENTION_WIDTH: u64 = 1 << 17;

/// Most layers: bounds the list of expected tensors before the checkpoint has been looked at.
const MAX_LAYERS: u32 = 4096;

/// A decoder's hyperparameters, wholly from config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `mistral` or `llama`.
    pub model_type: String,
    /// Rows of the embedding table.
    pub vocab: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Width of the MLP.
    pub intermediate: u32,
    /// Layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Epsilon of every RMSNorm.
    pub norm_epsilon: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Their scaling.
    pub rope_scaling: RopeScaling,
    /// Keys visible to a query, itself included.
    pub window: Option<u32>,
    /// Positions the model was made for.
    pub max_positions: u32,
    /// Whether the output head is the embedding table.
    pub tied: bool,
    /// Ids that end a sequence.
    pub eos: Vec<u32>,
    /// `quantization_config`, for `checkpoint::scales`.
    pub quantization: Option<Value>,
}

/// What generation_config.json suggests.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Ids that end a sequence; overrides config.json's.
    pub eos: Option<Vec<u32>>,
    /// Sampling temperature; 0 where `do_sample` is false.
    pub temperature: Option<f32>,
    /// Nucleus.
    pub top_p: Option<f32>,
    /// Candidates.
    pub top_k: Option<u32>,
    /// Share of the best.
    pub min_p: Option<f32>,
    /// Repetition penalty.
    pub repetition_penalty: Option<f32>,
}

impl Config {
    /// Parses config.json.
    ///
    /// # Errors
    /// [`ModelError::BadFile`] for malformed or contradictory files, [`ModelError::Unsupported`] for
    /// what this decoder does not implement.
    pub fn parse(json: &[u8]) -> Result<Config, ModelError> {
        let keys = Keys::parse(CONFIG_FILE, json)?;
        let model_type = keys.string("model_type")?.unwrap_or_default();
        let mistral = match model_type.as_str() {
            "mistral" => true,
            "llama" => false,
            other => {
                let supported = "supported architectures: mistral, llama";
                return Err(keys.unsupported("model_type", &format!("{other:?}"), supported));
            }
        };
        keys.refuse_variants()?;
        let hidden = keys.size("hidden_size")?;
        let heads = keys.size("num_attention_heads")?;
        let default_kv_heads = if mistral { 8 } else { heads };
        let kv_heads = keys.optional_size("num_key_value_heads")?.unwrap_or(default_kv_heads);
        if heads % kv_heads != 0 {
            return Err(keys.bad(format!(
                "num_attention_heads = {heads} is not a multiple of num_key_value_heads = {kv_heads}"
            )));
        }
        let head_dim = match keys.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(keys.bad(format!("hidden_size = {hidden} is not a multiple of {heads} heads")));
            }
        };
        if head_dim % 2 != 0 {
            return Err(keys.bad(format!("head_dim = {head_dim} is odd, and rotary embedding needs pairs")));
        }
        if head_dim > MAX_HEAD_DIM {
            let supported = "the attention kernel takes heads of at most 2048";
            return Err(keys.unsupported("head_dim", &head_dim.to_string(), supported));
        }
        if heads > MAX_HEADS || u64::from(heads) * u64::from(head_dim) > MAX_ATTENTION_WIDTH {
            return Err(keys.bad(format!("{heads} heads of {head_dim} are beyond any model")));
        }
        let window = match keys.map.get("sliding_window") {
            Some(Value::Null) => None,
            Some(_) if mistral => keys.positions("sliding_window")?,
            None if mistral => Some(4096),
            _ => None,
        };
        let max_positions = keys.positions("max_position_embeddings")?;
        let max_positions = max_positions.unwrap_or(if mistral { 131_072 } else { 2048 });
        let (rope_theta, rope_scaling) = keys.rope()?;
        let layers = keys.size("num_hidden_layers")?;
        if layers > MAX_LAYERS {
            return Err(keys.bad(format!("num_hidden_layers = {layers} is beyond any model")));
        }
        Ok(Config {
            vocab: keys.size("vocab_size")?,
            intermediate: keys.size("intermediate_size")?,
            layers,
            norm_epsilon: keys.number("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            tied: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            eos: keys.ids("eos_token_id")?.unwrap_or_default(),
            quantization: keys.map.get("quantization_config").filter(|v| !v.is_null()).cloned(),
            model_type,
            hidden,
            heads,
            kv_heads,
            head_dim,
            rope_theta,
            rope_scaling,
            window,
            max_positions,
        })
    }

    /// The sizes that a backend needs, for `context` positions.
    pub fn shape(&self, context: u32) -> DecoderShape {
        DecoderShape {
            hidden: self.hidden,
            intermediate: self.intermediate,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            vocab: self.vocab,
            norm_epsilon: self.norm_epsilon,
            window: self.window,
            context,
            max_batch: 1,
            inv_freq: inv_freq(self.head_dim, self.rope_theta, self.rope_scaling),
            rope_scale: 1.0,
            kv_cache: CacheForm::default(),
        }
    }
}

impl GenerationConfig {
    /// Parses generation_config.json.
    ///
    /// # Errors
    /// [`ModelError::BadFile`].
    pub fn parse(json: &[u8]) -> Result<GenerationConfig, ModelError> {
        let keys = Keys::parse(GENERATION_FILE, json)?;
        let greedy = keys.flag("do_sample")? == Some(false);
        let number = |key| keys.number(key).map(|n| n.map(|n| n as f32));
        let temperature = number("temperature")?;
        Ok(GenerationConfig {
            eos: keys.ids("eos_token_id")?,
            temperature: if greedy { Some(0.0) } else { temperature },
            top_p: number("top_p")?,
            top_k: keys.top_k()?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
        })
    }
}

/// A JSON object and the file it came from.
struct Keys {
    file: &'static str,
    map: Map<String, Value>,
}

impl Keys {
    fn parse(file: &'static str, json: &[u8]) -> Result<Keys, ModelError> {
        match serde_json::from_slice(json) {
            Ok(Value::Object(map)) => Ok(Keys { file, map }),
            Ok(_) => Err(ModelError::BadFile { file, detail: "not a JSON object".into() }),
            Err(e) => Err(ModelError::BadFile { file, detail: format!("not JSON: {e}") }),
        }
    }

    fn bad(&self, detail: String) -> ModelError {
        ModelError::BadFile { file: self.file, detail }
    }

    fn unsupported(&self, key: &str, value: &str, supported: &'static str) -> ModelError {
        ModelError::Unsupported { file: self.file, key: key.into(), value: value.into(), supported }
    }

    /// The value of `key`, unless it is absent or null.
    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        kind: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match read(value) {
                Some(read) => Ok(Some(read)),
                None => Err(self.bad(format!("{key} = {value} is not {kind}"))),
            },
        }
    }

    fn string(&self, key: &str) -> Result<Option<String>, ModelError> {
        self.typed(key, "a string", |v| v.as_str().map(str::to_owned))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a finite number of at least 0", |v| {
            v.as_f64().filter(|n| n.is_finite() && *n >= 0.0)
        })
    }

    fn optional_size(&self, key: &str) -> Result<Option<u32>, ModelError> {
        self.typed(key, "a size from 1 to 2^20", |v| {
            v.as_u64().filter(|n| (1..=MAX_SIZE).contains(n)).map(|n| n as u32)
        })
    }

    fn positions(&self, key: &str) -> Result<Option<u32>, ModelError> {
        self.typed(key, "a number of positions from 1 to 2^24", |v| {
            v.as_u64().filter(|n| (1..=MAX_POSITIONS).contains(n)).map(|n| n as u32)
        })
    }

    /// transformers takes 0 for no limit, and other engines -1.
    fn top_k(&self) -> Result<Option<u32>, ModelError> {
        self.typed("top_k", "a whole number", |v| match v.as_i64() {
            Some(-1) => Some(0),
            number => number.and_then(|n| u32::try_from(n).ok()),
        })
    }

    fn size(&self, key: &str) -> Result<u32, ModelError> {
        self.optional_size(key)?.ok_or_else(|| self.bad(format!("{key} is missing")))
    }

    fn ids(&self, key: &str) -> Result<Option<Vec<u32>>, ModelError> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        self.typed(key, "a token id or a list of them", |v| match v {
            Value::Array(list) => list.iter().map(id).collect(),
            single => id(single).map(|id| vec![id]),
        })
    }

    /// Settings that change the mathematics and are not implemented.
    fn refuse_variants(&self) -> Result<(), ModelError> {
        let activation = self.string("hidden_act")?.unwrap_or_else(|| "silu".into());
        if !matches!(activation.as_str(), "silu" | "swish") {
            return Err(self.unsupported("hidden_act", &activation, "supported: silu"));
        }
        for key in ["attention_bias", "mlp_bias"] {
            if self.flag(key)? == Some(true) {
                return Err(self.unsupported(key, "true", "only models without biases are"));
            }
        }
        for key in ["num_local_experts", "num_experts"] {
            if let Some(value) = self.get(key) {
                return Err(self.unsupported(key, &value.to_string(), "mixtures of experts are not"));
            }
        }
        Ok(())
    }

    /// Base and scaling of the rotary frequencies, in either spelling.
    fn rope(&self) -> Result<(f64, RopeScaling), ModelError> {
        let new = self.typed("rope_parameters", "an object", |v| v.as_object().cloned())?;
        let old = self.typed("rope_scaling", "an object", |v| v.as_object().cloned())?;
        let (section, map) = match (new, old) {
            (Some(map), _) => ("rope_parameters", map),
            (None, Some(map)) => ("rope_scaling", map),
            (None, None) => ("rope_scaling", Map::new()),
        };
        let inner = Keys { file: self.file, map };
        let theta = match inner.number("rope_theta")? {
            Some(theta) => theta,
            None => self.number("rope_theta")?.unwrap_or(10_000.0),
        };
        if theta <= 0.0 {
            return Err(self.bad(format!("rope_theta = {theta} is not above 0")));
        }
        let kind = match inner.string("rope_type")? {
            Some(kind) => kind,
            None => inner.string("type")?.unwrap_or_else(|| "default".into()),
        };
        let need = |key: &str| {
            let value = inner.number(key)?.filter(|n| *n > 0.0);
            value.ok_or_else(|| self.bad(format!("{section}.{key} is missing or not above 0")))
        };
        let scaling = match kind.as_str() {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: need("factor")? },
            "llama3" => {
                let scaling = RopeScaling::Llama3 {
                    factor: need("factor")?,
                    low_freq_factor: need("low_freq_factor")?,
                    high_freq_factor: need("high_freq_factor")?,
                    original: need("original_max_position_embeddings")?,
                };
                if need("low_freq_factor")? >= need("high_freq_factor")? {
                    return Err(self.bad(format!("{section}: low_freq_factor is not below high_freq_factor")));
                }
                scaling
            }
            other => {
                let key = format!("{section}.rope_type");
                return Err(self.unsupported(&key, other, "supported: default, linear, llama3"));
            }
        };
        Ok((theta, scaling))
    }
}
