//! Shaders: one kernel = `x.wgsl` (the mathematics) and `x.rs` (parameters, bindings, dispatch).
//!
//! `backend` implements the decoder's steps with them, `merge` a merge of two tensors. Every
//! kernel has a plain-Rust twin of the same name in `reference`.

#[macro_use]
mod embedded;

pub mod attend;
pub mod attend_many;
pub mod attend_one;
pub mod attend_reduce;
mod backend;
pub mod blend;
pub mod cache_form;
pub mod choice;
pub mod decode_fp8;
pub mod embed;
pub mod gain;
pub mod linear;
pub mod matmul;
pub mod matmul_gated;
pub mod matvec;
pub mod matvec_gated;
pub mod merge;
#[cfg(any(feature = "bench", not(target_arch = "wasm32")))]
pub mod probe;
pub mod rms_norm;
pub mod rope_store;
pub mod rope_store_f8;
pub mod sample_adjust;
pub mod sample_pick;
pub mod silu_mul;
pub mod sizes;
pub mod slerp_sums;
pub mod subgroups;
mod trial;
mod tune;
pub mod weights;

pub use backend::{BackendInfo, WebGpu};
pub use choice::Choice;
pub use sizes::{Sizes, Threads, Tile};
pub use tune::{BUDGET, Tuned, Tuner};

use crate::gpu::Kernel;
use crate::steps::{DecoderShape, MatrixSpec};

/// Declares `struct Batch` in WGSL; every kernel that binds it starts with this part.
pub(crate) const BATCH_WGSL: &str = wgsl!("shared/batch.wgsl");

/// What changes from one forward pass to the next. Layout of `Batch` in shared/batch.wgsl.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct BatchUniform {
    /// Tokens of this batch.
    pub tokens: u32,
    /// Position of the first of them.
    pub position: u32,
    /// Parts into which attention divides the cache.
    pub splits: u32,
    /// Key tiles in each of them.
    pub tiles_per_split: u32,
}

/// Rows of activations start at multiples of this many f32, so that the widest load of weights
/// (16 of them) always finds its activations; the padding is zero.
const PITCH: u32 = 16;

/// Workgroups in three dimensions.
pub type Grid = [u32; 3];

/// Most workgroups WebGPU guarantees in one dimension.
const MAX_GROUPS: u32 = 65_535;

/// `groups` workgroups as (x, z), folded where one dimension cannot hold them.
pub(crate) fn fold(groups: u32) -> (u32, u32) {
    let z = groups.div_ceil(MAX_GROUPS).max(1);
    (groups.div_ceil(z), z)
}

/// Every composition of every kernel: all dtypes with both decoders, with and without blocks of
/// scales, sizes for GPU and CPU, several head sizes. For tests and diagnostics.
pub fn compositions() -> Vec<Kernel> {
    let mut all = vec![
        attend_reduce::kernel(),
        gain::kernel(),
        rope_store::kernel(),
        rope_store_f8::kernel(),
        silu_mul::kernel(),
    ];
    #[cfg(any(feature = "bench", not(target_arch = "wasm32")))]
    all.extend(probe::compositions());
    for sizes in Sizes::ALL {
        all.extend([4, 1024].map(|pitch| rms_norm::kernel(pitch, sizes)));
        all.push(sample_adjust::kernel(sizes));
        all.extend(Threads::candidates(sizes).iter().map(|threads| subgroups::kernel(threads.workgroup, 4)));
        all.extend([true, false].map(|greedy| sample_pick::kernel(sizes, greedy)));
        let heads =
            [(2, 4), (64, 2), (64, 4), (64, 6), (64, 8), (128, 4), (514, 4), (attend::MAX_HEAD_DIM, 4)];
        for (head_dim, heads) in heads {
            let shape = DecoderShape { heads, kv_heads: 2, head_dim, ..DecoderShape::default() };
            let prompt_or_not = [true, false].into_iter();
            let mut attends: Vec<_> = prompt_or_not
                .map(|prompt| attend::Tiling::new(&shape, prompt, sizes).kernel(&shape))
                .collect();
            let many = [attend_many::ManyTiling::new(&shape, sizes), attend_many::ManyTiling::brief(&shape)];
            attends.extend(many.into_iter().flatten().map(|tiling| tiling.kernel()));
            attends.extend(attend_one::OneTiling::new(&shape, sizes).map(|tiling| tiling.kernel(&shape)));
            for decoder in weights::Decoder::ALL {
                all.extend(attends.iter().map(|kernel| cache_form::in_f8(kernel.clone(), decoder)));
            }
            all.extend(attends);
        }
    }
    for dtype in weights::DTYPES {
        all.extend(slerp_sums::Opaque::ALL.into_iter().filter_map(|o| slerp_sums::kernel(dtype, o)));
        for tiny in blend::Tiny::ALL {
            all.extend(weights::DTYPES.into_iter().filter_map(|out| blend::kernel(dtype, out, tiny)));
        }
        for decoder in weights::Decoder::ALL {
            all.extend(decode_fp8::kernel(dtype, decoder));
            for scale_cols in [0, 16] {
                let spec = MatrixSpec { label: String::new(), rows: 4, cols: 64, dtype, scale_cols };
                all.extend(embed::kernel(&spec, decoder));
                for sizes in Sizes::ALL {
                    let folds = [0, 4, 32].into_iter();
                    let threads = folds.flat_map(|fold| {
                        Threads::candidates(sizes).iter().map(move |threads| threads.within(fold))
                    });
                    for threads in threads {
                        all.extend(matvec::kernel(&spec, decoder, threads));
                        all.extend(matvec::scaled(&spec, decoder, threads, 1e-5));
                        all.extend(matvec::gaining(&spec, decoder, threads));
                        all.extend(matvec_gated::kernel(&spec, decoder, threads, 1e-5));
                    }
                    for tile in Tile::candidates(sizes) {
                        all.extend(matmul::kernel(&spec, decoder, *tile));
                        all.extend(matmul_gated::kernel(&spec, decoder, *tile));
                    }
                }
            }
        }
    }
    all
}
