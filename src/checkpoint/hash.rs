//! SHA-256 of a file while it streams, in a state that can be kept and gone on from.

use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest, Sha256};

/// Bytes of a state that is kept.
pub const STATE_BYTES: usize = 104;

/// The hash of what has come of a file so far.
#[derive(Clone, Debug, Default)]
pub struct FileHash(Sha256);

impl FileHash {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The state, to go on from later.
    pub fn state(&self) -> [u8; STATE_BYTES] {
        self.0.serialize().into()
    }

    /// Goes on from a state; `None` if it is none.
    pub fn from_state(state: [u8; STATE_BYTES]) -> Option<FileHash> {
        Sha256::deserialize(&state.into()).ok().map(FileHash)
    }

    /// The hash in lower-case hexadecimal.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
