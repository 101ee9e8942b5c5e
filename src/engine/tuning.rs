//! How a load comes to its choice of kernels: timed, remembered from an earlier load, or the usual one.

use web_time::Duration;

use super::backend::Backend;
use super::types::BackendChoice;
use super::{EngineError, LoadOptions, TuningReport, TuningState};
use crate::gpu::GpuError;
use crate::kernels::choice::Numbers;
use crate::kernels::{BUDGET, Choice, Sizes, Tuned, Tuner, WebGpu};

/// Refuses what would do nothing.
///
/// # Errors
/// [`EngineError::BadRequest`].
pub(super) fn check(options: &LoadOptions) -> Result<(), EngineError> {
    if options.backend == BackendChoice::Cpu && options.autotune == Some(true) {
        let what =
            "autotune: it times graphics adapters, and the processor is asked for; leave out one of them";
        return Err(EngineError::BadRequest(what.into()));
    }
    Ok(())
}

/// What has to be timed, and the report.
pub(super) struct Tuning {
    budget: Option<Duration>,
    pub report: TuningReport,
}

impl Tuning {
    /// After planning: takes up what was remembered; then, if it is remembered, all is to be planned again.
    pub fn new(backend: &mut Backend, options: &LoadOptions) -> Tuning {
        let Some(gpu) = backend.webgpu() else {
            return Tuning::usual("nothing is timed on the processor");
        };
        let report = |state, key| TuningReport { state, note: None, key, choice: gpu_choice(gpu) };
        let why_not = match options.autotune {
            Some(false) => Some("it is switched off"),
            None if gpu.gpu().tier().software => Some("on software adapters only if it is asked for"),
            _ => None,
        };
        if let Some(note) = why_not {
            let report = report(TuningState::Usual, String::new());
            return Tuning { budget: None, report: TuningReport { note: Some(note.into()), ..report } };
        }
        let key = gpu.tuning_key();
        let sizes = Sizes::of(gpu.gpu().tier());
        if let Some(choice) = remembered(&options.tunings, &key, sizes) {
            gpu.tune(choice);
            let report =
                TuningReport { state: TuningState::Remembered, note: None, key, choice: gpu_choice(gpu) };
            return Tuning { budget: None, report };
        }
        let budget = options.tuning_ms.map_or(BUDGET, |ms| Duration::from_millis(ms.into()));
        Tuning { budget: Some(budget), report: report(TuningState::Usual, key) }
    }

    fn usual(note: &str) -> Tuning {
        let report = TuningReport {
            state: TuningState::Usual,
            note: Some(note.into()),
            key: String::new(),
            choice: Vec::new(),
        };
        Tuning { budget: None, report }
    }

    /// Whether the backend computes by a remembered choice.
    pub fn is_remembered(&self) -> bool {
        self.report.state == TuningState::Remembered
    }

    /// Prepares to time, if that is to be. What goes wrong with it leaves all as it is.
    pub async fn tuner(&mut self, backend: &mut Backend) -> Option<Tuner> {
        let (Some(budget), Some(gpu)) = (self.budget, backend.webgpu()) else { return None };
        let made = gpu.tuner(budget).await;
        self.unless_failed(made)?.or_else(|| self.note("there is nothing to compare"))
    }

    /// Takes what was timed; whether all is to be planned and compiled again.
    pub fn take(&mut self, backend: &mut Backend, came: Option<Result<Option<Tuned>, GpuError>>) -> bool {
        let (Some(came), Some(gpu)) = (came, backend.webgpu()) else { return false };
        let tuned = self.unless_failed(came).flatten();
        let Some(Tuned { choice, timed }) = tuned else {
            self.note::<()>("time ran out before two choices were measured");
            return false;
        };
        let is_new = gpu.choice() != choice;
        gpu.tune(choice);
        self.report.state = TuningState::Timed;
        self.report.note = Some(format!("{timed} measured"));
        self.report.choice = gpu_choice(gpu);
        is_new
    }

    fn unless_failed<T>(&mut self, result: Result<T, GpuError>) -> Option<T> {
        result.map_err(|error| self.report.note = Some(error.to_string())).ok()
    }

    /// Why nothing was timed, unless that is known.
    fn note<T>(&mut self, why: &str) -> Option<T> {
        self.report.note.get_or_insert_with(|| why.into());
        None
    }
}

fn gpu_choice(gpu: &WebGpu) -> Vec<u32> {
    gpu.choice().numbers().to_vec()
}

/// A choice as an earlier load has put it down; `None` for anything else.
fn remembered(tunings: &str, key: &str, sizes: Sizes) -> Option<Choice> {
    let tunings: serde_json::Value = serde_json::from_str(tunings).ok()?;
    let mut numbers = Numbers::default();
    let held = tunings.get(key)?.as_array().filter(|held| held.len() == numbers.len())?;
    for (number, held) in numbers.iter_mut().zip(held) {
        *number = u32::try_from(held.as_u64()?).ok()?;
    }
    Choice::from_numbers(numbers, sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Threads, Tile};

    #[test]
    fn only_choices_are_remembered() {
        let held =
            |numbers: &str| remembered(&format!(r#"{{"other": 1, "key": {numbers}}}"#), "key", Sizes::Gpu);
        for threads in Threads::candidates(Sizes::Gpu) {
            for tile in Tile::candidates(Sizes::Gpu) {
                let choice =
                    Choice { threads: *threads, tile: *tile, fast: false, subgroups: true, short: 6 };
                assert_eq!(held(&format!("{:?}", choice.numbers())), Some(choice));
            }
        }
        assert!(held("[64, 64, 8, 8, 8, 4, 8, 1, 0, 8]").is_some());
        let foreign = [
            "[7, 64, 8, 8, 8, 4, 8, 1, 0, 8]",
            "[64, 64, 8, 8, 8, 4, 9, 1, 0, 8]",
            "[64, 64, 8, 8, 8, 4, 8, 2, 0, 8]",
            "[64, 64, 8, 8, 8, 4, 8, 1, 2, 8]",
            "[64, 64, 8, 8, 8, 4, 8, 1, 0, 9]",
            // What an earlier version put down.
            "[64, 64, 8, 8, 8, 4, 8, 1, 8]",
            "[64, 64, 8, 8, 8, 4, 8, 1, 0, 8, 0]",
            "[64, 64, 8, 8, 8, 4, 8, 1, 0, -1]",
            "[64, 64, 8, 8, 8, 4, 8, 1, 0, 4294967296]",
            r#"["64", 64, 8, 8, 8, 4, 8, 1, 0, 8]"#,
            // What suits an adapter that computes on the CPU.
            "[16, 8, 8, 1, 8, 8, 0, 1, 0, 0]",
            "{}",
            "null",
        ];
        for numbers in foreign {
            assert_eq!(held(numbers), None, "{numbers}");
        }
        for text in ["", "{\"torn", "[]", "null", "{}", "\u{0}"] {
            assert_eq!(remembered(text, "key", Sizes::Gpu), None, "{text:?}");
        }
    }
}
