//! How the kernels of attention read and store the key/value cache: parts of WGSL that take one another's place.

use crate::dtype::Dtype;
use crate::gpu::Kernel;

use super::weights::{self, Decoder};

/// Of f16, in words of two elements: what `attend` is composed with.
pub(super) const WORDS_F16: &str = wgsl!("shared/cache_words_f16.wgsl");

/// Of f16, in loads of eight elements: `attend_one` and `attend_many`.
pub(super) const LOADS_F16: &str = wgsl!("shared/cache_loads_f16.wgsl");

/// How `attend_one` stores in it.
pub(super) const ONE_F16: &str = wgsl!("shared/attend_one_f16.wgsl");

/// Codes and scales of what is stored as FP8.
pub(super) const ENCODE: &str = wgsl!("shared/encode_e4m3.wgsl");

/// The part of FP8 in the place of each part of f16.
const IN_F8: [(&str, &str); 3] = [
    (ONE_F16, wgsl!("shared/attend_one_f8.wgsl")),
    (WORDS_F16, wgsl!("shared/cache_words_f8.wgsl")),
    (LOADS_F16, wgsl!("shared/cache_loads_f8.wgsl")),
];

/// A kernel of attention over a cache of FP8, instead of f16.
pub fn in_f8(mut kernel: Kernel, decoder: Decoder) -> Kernel {
    if kernel.parts.contains(&ONE_F16) {
        kernel.parts.push(ENCODE);
    }
    for part in &mut kernel.parts {
        if let Some((_, f8)) = IN_F8.iter().find(|(f16, _)| part == f16) {
            *part = f8;
        }
    }
    kernel.parts.extend(weights::wgsl(Dtype::F8E4m3, decoder));
    kernel
}
