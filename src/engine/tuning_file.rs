//! What tuning has chosen on this machine: one small JSON file in the user's cache folder. It is no more than
//! saved time: what cannot be read is timed again, and what cannot be written is timed the next time.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{TuningReport, TuningState};

/// More than this are not kept: they are of other versions, drivers and models.
const MOST_ENTRIES: usize = 64;

/// The file, where there is a place for it.
#[derive(Clone, Debug)]
pub struct TuningFile(Option<PathBuf>);

impl TuningFile {
    /// That of the user: `bise/tuning.json` in `XDG_CACHE_HOME`, or where the platform has caches.
    pub fn of_user() -> TuningFile {
        let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let below_home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
        let caches = match folder("XDG_CACHE_HOME") {
            None if cfg!(windows) => folder("LOCALAPPDATA"),
            None => folder("HOME").map(|home| home.join(below_home)),
            caches => caches,
        };
        TuningFile(caches.map(|caches| caches.join("bise").join("tuning.json")))
    }

    /// One that lies there.
    pub fn at(path: &Path) -> TuningFile {
        TuningFile(Some(path.to_owned()))
    }

    /// What [`LoadOptions::tunings`](super::LoadOptions::tunings) takes; empty where nothing can be read.
    pub fn read(&self) -> String {
        self.0.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// Remembers what a load has timed.
    pub fn note(&self, report: &TuningReport) {
        let (Some(path), TuningState::Timed) = (&self.0, report.state) else { return };
        let mut entries = match serde_json::from_str(&self.read()) {
            Ok(Value::Object(entries)) if entries.len() < MOST_ENTRIES => entries,
            _ => Map::new(),
        };
        entries.insert(report.key.clone(), report.choice.clone().into());
        // Under a name of its own first: another process never reads half of it.
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = folder.and_then(|()| std::fs::write(&part, format!("{:#}\n", Value::Object(entries))));
        if written.and_then(|()| std::fs::rename(&part, path)).is_err() {
            // Nothing is lost but the time to measure again.
            let _ = std::fs::remove_file(&part);
        }
    }
}
