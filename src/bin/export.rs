//! `export`.

use std::error::Error;
use std::path::PathBuf;
use std::rc::Rc;

use bise::checkpoint::source::FileSource;
use bise::merge::{Merge, MergeOptions, ModelRef, Parent};
use clap::Args;

use super::out::{OutArgs, is_interrupted};
use super::run::source;

/// Arguments of `export`.
#[derive(Args)]
pub struct ExportArgs {
    /// Directory of a Hugging Face checkpoint.
    model: PathBuf,
    #[command(flatten)]
    out: OutArgs,
}

/// Writes a model as an FP8 checkpoint.
pub fn export(args: &ExportArgs) -> Result<(), Box<dyn Error>> {
    args.out.write(|| plan(args))
}

async fn plan(args: &ExportArgs) -> Result<Merge<FileSource>, Box<dyn Error>> {
    let name = ModelRef { path: args.model.display().to_string(), revision: None };
    let parent = Parent::open(name, source(&args.model)?).await?;
    let options = MergeOptions { quantize: true, ..args.out.options() };
    Ok(Merge::copy(parent, options, Rc::new(is_interrupted), Box::new(|_| ())).await?)
}
