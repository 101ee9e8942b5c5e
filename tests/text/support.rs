//! Fixtures and a seeded generator.

use std::path::PathBuf;

use bise::text::Tokenizer;
use serde_json::Value;

pub fn bytes(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn json(path: &str) -> Value {
    serde_json::from_slice(&bytes(path)).unwrap()
}

pub const TALE: &str = "www/models/tale";
pub const MISTRAL: &str = "tests/fixtures/mistral7b";
pub const SMOLLM2: &str = "tests/fixtures/smollm2";

pub fn tokenizer(directory: &str) -> Tokenizer {
    Tokenizer::from_json(bytes(&format!("{directory}/tokenizer.json"))).unwrap()
}

pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

pub fn string(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// SplitMix64: small, seeded, the same everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A tokenizer.json that is quick to read: of the vocabulary, only byte tokens,
/// characters, some more, and what merges those make of each other.
pub fn small_tokenizer(directory: &str) -> Value {
    let mut file = json(&format!("{directory}/tokenizer.json"));
    let vocab = file["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|token, id| id.as_u64().is_some_and(|id| id < 600) || token.chars().count() == 1);
    let vocab = vocab.clone();
    file["model"]["merges"].as_array_mut().unwrap().retain(|merge| {
        let (a, b) = match merge.as_str() {
            Some(merge) => merge.split_once(' ').unwrap(),
            None => (string(&merge[0]), string(&merge[1])),
        };
        [a, b, &format!("{a}{b}")].into_iter().all(|piece| vocab.contains_key(piece))
    });
    file
}
