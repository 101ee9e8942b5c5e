//! The `bise` command line.

fn main() {}
