//! When to ask a server again, as data: no clock, no timer, no network.

use serde::Serialize;

use crate::checkpoint::source::SourceError;

/// Longest wait between two attempts, unless the server asks for more, in milliseconds.
const LONGEST_BACKOFF_MS: u64 = 30_000;
/// Longest wait that a server may ask for, in milliseconds: beyond that a visitor wants to know.
const LONGEST_RETRY_AFTER_MS: u64 = 600_000;
/// Bytes that make earlier failures count no more.
const PROGRESS_BYTES: u64 = 256 << 10;
/// Attempts to reach a server from which nothing ever came: most likely its address is wrong.
const ATTEMPTS_UNHEARD: u32 = 2;

/// How patient to be with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Attempts at the same bytes, the first included.
    pub attempts: u32,
    /// Wait after the first failure, milliseconds; it doubles with each further one.
    pub backoff_ms: u64,
    /// A connection that delivers nothing for so long is given up, milliseconds.
    pub stall_ms: u64,
}

impl Default for Network {
    fn default() -> Network {
        Network { attempts: 6, backoff_ms: 500, stall_ms: 30_000 }
    }
}

/// A transfer that stands still until its next attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Milliseconds until then.
    pub ms: u64,
    /// Number of that attempt; the first was 1.
    pub attempt: u32,
    /// What went wrong.
    pub reason: String,
}

/// Why an attempt failed.
pub(super) struct Failed {
    pub(super) error: SourceError,
    /// How long the server asks to be left alone, milliseconds.
    pub(super) retry_after_ms: Option<u64>,
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Failed {
        Failed { error, retry_after_ms: None }
    }
}

/// The attempts at one range of a file.
pub(super) struct Attempts {
    network: Network,
    failed: u32,
    /// Byte at which they began to count.
    since: u64,
}

impl Attempts {
    pub(super) fn new(network: Network, start: u64) -> Attempts {
        Attempts { network, failed: 0, since: start }
    }

    /// What to do about a failure at byte `at` of the file: wait, or give up. `random` is in [0, 1):
    /// visitors that failed together must not come back together. `heard` is whether the server ever
    /// answered.
    ///
    /// # Errors
    /// The failure, with place and number of attempts, where another attempt would not help.
    pub(super) fn wait(
        &mut self,
        at: u64,
        failed: Failed,
        heard: bool,
        random: f64,
    ) -> Result<Waiting, SourceError> {
        let Failed { error, retry_after_ms } = failed;
        if at.saturating_sub(self.since) >= PROGRESS_BYTES {
            (self.failed, self.since) = (0, at);
        }
        self.failed += 1;
        let attempts =
            if heard { self.network.attempts } else { self.network.attempts.min(ATTEMPTS_UNHEARD) };
        let asked = retry_after_ms.unwrap_or(0);
        if !may_pass(&error) || self.failed >= attempts || asked > LONGEST_RETRY_AFTER_MS {
            return Err(self.give_up(at, error));
        }
        let doubled = self.network.backoff_ms.saturating_mul(1 << (self.failed - 1).min(20));
        let backoff = doubled.min(LONGEST_BACKOFF_MS) as f64 * (0.5 + 0.5 * random);
        Ok(Waiting { ms: asked + backoff as u64, attempt: self.failed + 1, reason: error.to_string() })
    }

    fn give_up(&self, offset: u64, error: SourceError) -> SourceError {
        match error {
            SourceError::NotFound { .. } | SourceError::Aborted | SourceError::Changed { .. } => error,
            error if self.failed == 1 && offset == 0 => error,
            error => SourceError::GaveUp { offset, attempts: self.failed, error: Box::new(error) },
        }
    }
}

/// Whether an error may be gone at the next attempt.
fn may_pass(error: &SourceError) -> bool {
    match error {
        SourceError::Network { .. } | SourceError::Cut { .. } => true,
        // Not implemented and version not supported stay so.
        SourceError::Status { status, .. } => {
            matches!(status, 408 | 425 | 429 | 500..) && !matches!(status, 501 | 505)
        }
        _ => false,
    }
}

/// The wait that a Retry-After header asks for at `now_ms` since 1970, in milliseconds: seconds, or a
/// date, which `date_ms` reads.
pub fn retry_after_ms(value: &str, now_ms: u64, date_ms: &dyn Fn(&str) -> Option<u64>) -> Option<u64> {
    match value.trim().parse::<u64>() {
        Ok(seconds) => Some(seconds.saturating_mul(1000)),
        Err(_) => Some(date_ms(value.trim())?.saturating_sub(now_ms)),
    }
}
