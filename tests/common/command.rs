//! Runs of the command line.

use std::process::{Command, Output};

use serde_json::Value;

/// Runs `bise` from the top of the repository.
pub fn bise(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bise"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
}

/// stdout as exactly one JSON object.
pub fn json(arguments: &[&str]) -> Value {
    let output = bise(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value.is_object());
    value
}

/// The line that starts with `error: ` and is ours; Mesa's loader writes some of its own.
pub fn error(arguments: &[&str], status: i32) -> String {
    let output = bise(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    stderr.lines().filter(|line| !line.contains("XDG_RUNTIME_DIR")).collect::<Vec<_>>().join("\n")
}
