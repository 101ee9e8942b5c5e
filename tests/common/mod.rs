//! What several test binaries share. Each uses a part of it.
#![allow(dead_code, reason = "every test binary compiles its own copy and uses only a part")]

use bise::gpu::LimitChoice;

pub mod layouts;
pub mod recorder;
pub mod synthetic;

/// SplitMix64: a seeded generator, so that a failure can be repeated from the seed it prints.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `limit` (which is small against 2^64).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Uniform in [-1, 1).
    pub fn weight(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// The limits that `BISE_LIMITS` asks for: `adapter` (the default), `default`, or the bytes of a
/// storage binding.
pub fn limits() -> LimitChoice {
    match std::env::var("BISE_LIMITS").as_deref() {
        Err(_) | Ok("adapter") => LimitChoice::Adapter,
        Ok("default") => LimitChoice::Default,
        Ok(bytes) => LimitChoice::Binding(bytes.parse().expect("BISE_LIMITS: adapter, default or bytes")),
    }
}
