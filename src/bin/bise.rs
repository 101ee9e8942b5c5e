//! The `bise` command line.
//!
//! Results go to stdout; an error is one line on stderr, `error: ...`, with exit
//! status 1, and 2 for a command line that cannot be understood.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod export;
mod inspect;
mod merge;
mod out;
mod run;
mod serve;

/// Run and merge Mistral-family language models.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Continue a prompt.
    Generate(run::GenerateArgs),
    /// Print the logits that follow a sequence of token ids.
    Logits(run::LogitsArgs),
    /// Encode a text, and decode it again.
    Tokenize(run::TokenizeArgs),
    /// Describe a checkpoint without loading it.
    Inspect(inspect::Args),
    /// Merge checkpoints by a mergekit recipe.
    Merge(merge::MergeArgs),
    /// Save a model as an FP8 checkpoint that transformers and vLLM load.
    ///
    /// Linear weights become F8_E4M3 with one scale per row (compressed-tensors, naive-quantized,
    /// channel). Those that are so already, or have one scale per tensor, keep codes and scales; other
    /// FP8 is quantised anew.
    Export(export::ExportArgs),
    /// Time a model beside the adapter's own limits.
    Bench(bench::Args),
    /// Serve a built site on this machine, with HTTP ranges.
    Serve(serve::Args),
}

impl Command {
    fn run(self) -> Result<(), Box<dyn Error>> {
        match self {
            Command::Generate(args) => run::generate(args),
            Command::Logits(args) => run::logits(args),
            Command::Tokenize(args) => run::tokenize(&args),
            Command::Inspect(args) => inspect::inspect(&args),
            Command::Merge(args) => merge::merge(&args),
            Command::Export(args) => export::export(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Serve(args) => Ok(serve::run(&args)?),
        }
    }
}

fn main() -> ExitCode {
    match Cli::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr closed there is nobody left to tell; the status still says it.
            let _ = writeln!(std::io::stderr(), "error: {}", one_line(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// The error and what caused it, on one line.
fn one_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
