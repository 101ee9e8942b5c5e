//! `merge`.

use std::cell::Cell;
use std::error::Error;
use std::fs;
use std::io::{IsTerminal, Write, stderr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bise::checkpoint::sink::FileSink;
use bise::checkpoint::source::FileSource;
use bise::merge::{Arithmetic, Merge, MergeOptions, ModelRef, Parent, Recipe, WriteProgress};
use clap::{Args, ValueEnum};
use pollster::block_on;

use super::run::gpu_options;

/// Arguments of `merge`.
#[derive(Args)]
pub struct MergeArgs {
    /// A mergekit recipe (slerp, linear or passthrough).
    recipe: PathBuf,
    /// Directory to write the merged checkpoint to; it must not exist, or be empty.
    out_dir: PathBuf,
    /// Where a model of the recipe lies; may be repeated. Without it, a model's name is a path from
    /// here or from the recipe's directory.
    #[arg(long, value_name = "NAME=DIR", value_parser = parse_model)]
    model: Vec<(String, PathBuf)>,
    /// Longest data of a weight file in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = MergeOptions::default().shard_bytes)]
    shard_size: u64,
    /// Store linear weights as F8_E4M3 with one scale per row.
    #[arg(long)]
    f8: bool,
    /// Where to compute: `auto` takes a GPU unless it is a software adapter.
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
    /// Write what was done to each tensor, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    Auto,
    Webgpu,
    Cpu,
}

fn parse_model(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, directory)) if !name.is_empty() && !directory.is_empty() => {
            Ok((name.to_owned(), directory.into()))
        }
        _ => Err("expected NAME=DIR".to_owned()),
    }
}

/// Set by an interrupt: the merge then ends at the next chunk and cleans up.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

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

/// Runs a merge.
pub fn merge(args: &MergeArgs) -> Result<(), Box<dyn Error>> {
    let name = args.recipe.display();
    let text = fs::read_to_string(&args.recipe).map_err(|error| format!("{name}: {error}"))?;
    let recipe = Recipe::parse(&text).map_err(|error| format!("{name}: {error}"))?;
    check_out_dir(&args.out_dir)?;
    // Without a handler an interrupt ends the process as ever, and leaves an unfinished directory.
    let _ = ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed));
    let merge = block_on(plan(args, recipe, &text))?;
    let warnings = merge.warnings();
    for warning in &warnings {
        writeln!(stderr(), "warning: {warning}")?;
    }
    let unfinished = unfinished(&args.out_dir)?;
    let mut sink = FileSink::new(&unfinished.path);
    let progress = Progress::new();
    block_on(merge.write(&mut sink, &mut |state| progress.show(state)))?;
    progress.end();
    for warning in merge.warnings().iter().skip(warnings.len()) {
        writeln!(stderr(), "warning: {warning}")?;
    }
    if args.out_dir.is_dir() {
        fs::remove_dir(&args.out_dir)?; // Empty, as was checked.
    }
    fs::rename(&unfinished.path, &args.out_dir)
        .map_err(|error| format!("{}: {error}", args.out_dir.display()))?;
    if let Some(file) = &args.report {
        write_whole(file, &serde_json::to_vec_pretty(&merge.report())?)?;
    }
    Ok(())
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

async fn plan(args: &MergeArgs, recipe: Recipe, text: &str) -> Result<Merge<FileSource>, Box<dyn Error>> {
    let models = recipe.models();
    let unused = args.model.iter().find(|(name, _)| !models.iter().any(|model| model.to_string() == *name));
    if let Some((name, _)) = unused {
        return Err(format!("--model {name}: the recipe names no such model").into());
    }
    let mut parents = Vec::new();
    for model in models {
        let directory = directory(args, &model)?;
        parents.push(Parent::open(model, FileSource::new(directory)).await?);
    }
    let arithmetic = match args.backend {
        Backend::Auto => Arithmetic::Auto(gpu_options()?),
        Backend::Webgpu => Arithmetic::Gpu(gpu_options()?),
        Backend::Cpu => Arithmetic::Cpu,
    };
    let (shard_bytes, quantize) = (args.shard_size, args.f8);
    let options = MergeOptions { shard_bytes, quantize, arithmetic, ..MergeOptions::default() };
    let cancelled = Rc::new(|| INTERRUPTED.load(Ordering::Relaxed));
    Ok(Merge::new(recipe, text, parents, options, cancelled, Box::new(|_| ())).await?)
}

/// Where a model lies: as `--model` says, or a path from here, or from the recipe's directory.
fn directory(args: &MergeArgs, model: &ModelRef) -> Result<PathBuf, Box<dyn Error>> {
    let name = model.to_string();
    if let Some((_, directory)) = args.model.iter().find(|(given, _)| *given == name) {
        return match directory.is_dir() {
            true => Ok(directory.clone()),
            false => Err(format!("--model {name}: {} is not a directory", directory.display()).into()),
        };
    }
    if model.revision.is_some() {
        return Err(
            format!("{name} is a revision on a hub; download it, then give --model {name}=DIR").into()
        );
    }
    let from_recipe = args.recipe.parent().unwrap_or(Path::new("")).join(&model.path);
    let places = [PathBuf::from(&model.path), from_recipe];
    let found = places.into_iter().find(|place| place.is_dir());
    found.ok_or_else(|| {
        format!(
            "{name} is a directory neither from here nor from the recipe; download it, then give \
             --model {name}=DIR"
        )
        .into()
    })
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
        // Progress that cannot be shown is no failure of the merge.
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
