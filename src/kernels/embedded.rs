//! Shader text as it is embedded: without comments and indentation, which would be 9 KB of the compressed wasm.

/// The text of a .wgsl file beside the caller's, to be part of a kernel.
macro_rules! wgsl {
    ($path:literal) => {{
        const TEXT: &[u8] = include_str!($path).as_bytes();
        const BYTES: [u8; $crate::kernels::embedded::strip(TEXT, &mut [])] = {
            let mut bytes = [0; $crate::kernels::embedded::strip(TEXT, &mut [])];
            $crate::kernels::embedded::strip(TEXT, &mut bytes);
            bytes
        };
        const STRIPPED: &str = match str::from_utf8(&BYTES) {
            Ok(text) => text,
            Err(_) => include_str!($path),
        };
        STRIPPED
    }};
}

/// Writes `text` without line comments, indentation, trailing and repeated spaces and empty lines into `out`, as far
/// as that reaches; the length of it all.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler, which tells what is out of bounds")]
pub(super) const fn strip(text: &[u8], out: &mut [u8]) -> usize {
    let (mut at, mut length) = (0, 0);
    let (mut is_empty, mut is_apart) = (true, false);
    while at < text.len() {
        let byte = text[at];
        if byte == b'/' && at + 1 < text.len() && text[at + 1] == b'/' {
            while at < text.len() && text[at] != b'\n' {
                at += 1;
            }
            continue;
        }
        at += 1;
        if byte == b' ' {
            is_apart = true;
            continue;
        }
        if byte == b'\n' && is_empty {
            is_apart = false;
            continue;
        }
        if is_apart && !is_empty && byte != b'\n' {
            if length < out.len() {
                out[length] = b' ';
            }
            length += 1;
        }
        if length < out.len() {
            out[length] = byte;
        }
        length += 1;
        is_empty = byte == b'\n';
        is_apart = false;
    }
    length
}
