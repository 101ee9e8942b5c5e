//! `merge`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bise::checkpoint::source::FileSource;
use bise::merge::{Arithmetic, Merge, MergeOptions, ModelRef, Parent, Recipe};
use clap::{Args, ValueEnum};

use super::out::{OutArgs, is_interrupted};
use super::run::gpu_options;

/// Arguments of `merge`.
#[derive(Args)]
pub struct MergeArgs {
    /// A mergekit recipe (slerp, linear or passthrough).
    recipe: PathBuf,
    #[command(flatten)]
    out: OutArgs,
    /// Where a model of the recipe lies; may be repeated. Without it, a model's name is a path from
    /// here or from the recipe's directory.
    #[arg(long, value_name = "NAME=DIR", value_parser = parse_model)]
    model: Vec<(String, PathBuf)>,
    /// Store linear weights as F8_E4M3 with one scale per row.
    #[arg(long)]
    f8: bool,
    /// Where to compute: `auto` takes a GPU unless it is a software adapter.
    #[arg(long, value_enum, default_value = "auto")]
    backend: Backend,
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

/// Runs a merge.
pub fn merge(args: &MergeArgs) -> Result<(), Box<dyn Error>> {
    let name = args.recipe.display();
    let text = fs::read_to_string(&args.recipe).map_err(|error| format!("{name}: {error}"))?;
    let recipe = Recipe::parse(&text).map_err(|error| format!("{name}: {error}"))?;
    args.out.write(|| plan(args, recipe, &text))
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
    let options = MergeOptions { quantize: args.f8, arithmetic, ..args.out.options() };
    Ok(Merge::new(recipe, text, parents, options, Rc::new(is_interrupted), Box::new(|_| ())).await?)
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
