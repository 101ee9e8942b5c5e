//! Checkpoints that commands write: a directory that is there as a whole or not at all.

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bise::checkpoint::sink::FileSink;
use bise::checkpoint::source::FileSource;
use bise::merge::{Merge, MergeOptions, WriteProgress};
use clap::Args;
use pollster::block_on;

/// What every command that writes a checkpoint takes.
#[derive(Args)]
pub struct OutArgs {
    /// Directory to write the checkpoint to; it must not exist, or be empty.
    out_dir: PathBuf,
    /// Longest data of a weight file in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = MergeOptions::default().shard_bytes)]
    shard_size: u64,
    /// Write what was done to each tensor, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl OutArgs {
    /// What these arguments say of a merge.
    pub fn options(&self) -> MergeOptions {
        MergeOptions { shard_bytes: self.shard_size, ..MergeOptions::default() }
    }

    /// Writes what `plan` gives.
    pub fn write(
        &self,
        plan: impl AsyncFnOnce() -> Result<Merge<FileSource>, Box<dyn Error>>,
    ) -> Result<(), Box<dyn Error>> {
        check_out_dir(&self.out_dir)?;
        // Without a handler an interrupt ends the process as ever, and leaves an unfinished directory.
        let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed));
        let merge = block_on(plan())?;
        let warnings = merge.warnings();
        for warning in &warnings {
            writeln!(stderr(), "warning: {warning}")?;
        }
        let unfinished = unfinished(&self.out_dir)?;
        let mut sink = FileSink::new(&unfinished.path);
        let progress = Progress::new();
        block_on(merge.write(&mut sink, &mut |state| progress.show(state)))?;
        progress.end();
        for warning in merge.warnings().iter().skip(warnings.len()) {
            writeln!(stderr(), "warning: {warning}")?;
        }
        if self.out_dir.is_dir() {
            fs::remove_dir(&self.out_dir)?; // Empty, as was checked.
        }
        fs::rename(&unfinished.path, &self.out_dir)
            .map_err(|error| format!("{}: {error}", self.out_dir.display()))?;
        if let Some(file) = &self.report {
            write_whole(file, &serde_json::to_vec_pretty(&merge.report())?)?;
        }
        Ok(())
    }
}

/// Set by an interrupt: what is written then ends at the next chunk and cleans up.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether the command is to end.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// A directory beside the final one; removed unless it was given its final name.
struct Unfinished {
    path: PathBuf,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Already renamed, or cannot be helped: its name says what it is.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn check_out_dir(out_dir: &Path) -> Result<(), Box<dyn Error>> {
    let shown = out_dir.display();
    match fs::read_dir(out_dir).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("{shown} is not empty; give a directory that is, or a new one").into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{shown}: {error}").into()),
    }
}

fn unfinished(out_dir: &Path) -> Result<Unfinished, Box<dyn Error>> {
    let parent = out_dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    let name = out_dir.file_name().ok_or("OUT_DIR has no name of its own; give a new directory")?;
    let name = format!(".{}.{}.partial", name.to_string_lossy(), std::process::id());
    let path = parent.join(name);
    fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Unfinished { path })
}

/// Writes a file that is either whole or not there.
fn write_whole(file: &Path, content: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    fs::write(&partial, content)
        .and_then(|()| fs::rename(&partial, file))
        .map_err(|error| format!("{}: {error}", file.display()).into())
}

/// One line on a terminal, rewritten a few times per second; nothing elsewhere.
struct Progress {
    started: Instant,
    shown: Cell<Option<Instant>>,
    terminal: bool,
}

impl Progress {
    fn new() -> Progress {
        Progress { started: Instant::now(), shown: Cell::new(None), terminal: stderr().is_terminal() }
    }

    fn show(&self, state: &WriteProgress) {
        let recent = |shown: Instant| shown.elapsed() < Duration::from_millis(200);
        if !self.terminal || self.shown.get().is_some_and(recent) {
            return;
        }
        self.shown.set(Some(Instant::now()));
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let rate = megabytes(state.done) / self.started.elapsed().as_secs_f64().max(1e-3);
        // Progress that cannot be shown is no failure of the command.
        let _ = write!(
            stderr(),
            "\r\x1b[K{}: {:.0} of {:.0} MB, {rate:.0} MB/s",
            state.file,
            megabytes(state.done),
            megabytes(state.total)
        );
    }

    fn end(&self) {
        if self.shown.get().is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
