//! The WGSL that unpacks a 16-byte load of weights, by dtype.

use crate::dtype::Dtype;

/// Which decoder of a 16-bit or 8-bit float an adapter may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decoder {
    /// Integer arithmetic: exact everywhere.
    Safe,
    /// The same with products for shifts, for adapters that shift lane by lane: exact everywhere.
    Products,
    /// The hardware's f16 conversion: exact only where f16 subnormals survive.
    Fast,
}

impl Decoder {
    /// All of them.
    pub const ALL: [Decoder; 3] = [Decoder::Safe, Decoder::Products, Decoder::Fast];

    /// `safe`, `products` or `fast`.
    pub fn name(self) -> &'static str {
        match self {
            Decoder::Safe => "safe",
            Decoder::Products => "products",
            Decoder::Fast => "fast",
        }
    }
}

/// The dtypes that shaders read.
pub const DTYPES: [Dtype; 5] = [Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::F8E4m3, Dtype::F8E5m2];

/// The part that declares `QUARTERS`, `UNPACK_SCALE` and `unpack4` for `dtype`; `None`
/// for a dtype that shaders do not read.
pub fn wgsl(dtype: Dtype, decoder: Decoder) -> Option<&'static str> {
    Some(match (dtype, decoder) {
        (Dtype::F32, _) => wgsl!("shared/weights_f32.wgsl"),
        (Dtype::Bf16, Decoder::Products) => wgsl!("shared/weights_bf16_products.wgsl"),
        (Dtype::Bf16, _) => wgsl!("shared/weights_bf16.wgsl"),
        (Dtype::F16, Decoder::Products) => wgsl!("shared/weights_f16_products.wgsl"),
        (Dtype::F8E4m3, Decoder::Products) => wgsl!("shared/weights_e4m3_products.wgsl"),
        (Dtype::F8E5m2, Decoder::Products) => wgsl!("shared/weights_e5m2_products.wgsl"),
        (Dtype::F16, Decoder::Safe) => wgsl!("shared/weights_f16_safe.wgsl"),
        (Dtype::F16, Decoder::Fast) => wgsl!("shared/weights_f16_fast.wgsl"),
        (Dtype::F8E4m3, Decoder::Safe) => wgsl!("shared/weights_e4m3_safe.wgsl"),
        (Dtype::F8E4m3, Decoder::Fast) => wgsl!("shared/weights_e4m3_fast.wgsl"),
        (Dtype::F8E5m2, Decoder::Safe) => wgsl!("shared/weights_e5m2_safe.wgsl"),
        (Dtype::F8E5m2, Decoder::Fast) => wgsl!("shared/weights_e5m2_fast.wgsl"),
        _ => return None,
    })
}

/// Elements in a 16-byte load of `dtype`.
pub fn per_load(dtype: Dtype) -> u32 {
    (16 / dtype.size_bytes().max(1)) as u32
}
