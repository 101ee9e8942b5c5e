//! One damaged file per error.

use bise::checkpoint::CheckpointError as E;
use bise::checkpoint::error::{HEADER_LIMIT_BYTES, ROW_LIMIT_BYTES};
use bise::checkpoint::{CheckpointError, Event, Header, StreamParser};
use bise::dtype::{Dtype, DtypeError};

use crate::support::{events, failure, file, file_of};

const FILE: &str = "x.safetensors";

fn x() -> String {
    FILE.to_owned()
}

/// A file of one entry under the name `t`.
fn entry(fields: &str, data: &[u8]) -> Vec<u8> {
    file(&format!(r#"{{"t":{{{fields}}}}}"#), data)
}

#[test]
fn header_too_large() {
    let bytes = HEADER_LIMIT_BYTES + 1;
    assert_eq!(failure(&bytes.to_le_bytes()), E::HeaderTooLarge { file: x(), bytes });
    let bytes = u64::MAX;
    assert_eq!(failure(&bytes.to_le_bytes()), E::HeaderTooLarge { file: x(), bytes });
}

#[test]
fn header_truncated() {
    assert_eq!(failure(b""), E::HeaderTruncated { file: x(), bytes: 0, expected: 8 });
    assert_eq!(failure(b"\x05\0\0"), E::HeaderTruncated { file: x(), bytes: 3, expected: 8 });
    assert_eq!(failure(b"\x05\0\0\0\0\0\0\0{}"), E::HeaderTruncated { file: x(), bytes: 10, expected: 13 });
}

/// A length that only claims to be large costs nothing.
#[test]
fn header_that_never_comes_takes_no_memory() {
    let mut parser = StreamParser::new(FILE);
    let mut ignore = |_: Event<'_>| Ok::<(), E>(());
    parser.write(&HEADER_LIMIT_BYTES.to_le_bytes(), &mut ignore).unwrap();
    parser.write(b"{", &mut ignore).unwrap();
    let expected = HEADER_LIMIT_BYTES + 8;
    assert_eq!(parser.end(&mut ignore), Err(E::HeaderTruncated { file: x(), bytes: 9, expected }));
}

#[test]
fn header_not_utf8() {
    let mut bytes = file("{\"a\":  }", b"");
    bytes[13] = 0xff;
    assert_eq!(failure(&bytes), E::HeaderNotUtf8 { file: x(), offset: 5 });
}

#[test]
fn header_not_object() {
    for json in [" {}", "[]", "", "null", "\u{feff}{}"] {
        assert_eq!(failure(&file(json, b"")), E::HeaderNotObject { file: x() }, "{json}");
    }
}

#[test]
fn header_json() {
    let is_json = |bytes: &[u8]| match failure(bytes) {
        E::HeaderJson { detail, .. } => detail,
        other => panic!("{other:?}"),
    };
    let deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
    for json in ["{", "{}x", "{}{}", "{'a':1}", r#"{"a":1}"#, r#"{"a":[]}"#, r#"{"a":null}"#, &deep] {
        is_json(&file(json, b""));
    }
    for fields in [
        r#""dtype":"U8","shape":[1]"#,
        r#""dtype":"U8","data_offsets":[0,1]"#,
        r#""shape":[1],"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":[1],"data_offsets":[0,1,1]"#,
        r#""dtype":"U8","shape":[1],"data_offsets":[0]"#,
        r#""dtype":"U8","shape":[1],"data_offsets":[0,1],"strides":[1]"#,
        r#""dtype":"U8","shape":"1","data_offsets":[0,1]"#,
        r#""dtype":[1],"shape":[1],"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":[-1],"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":[1.0],"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":[[1]],"data_offsets":[0,1]"#,
        r#""dtype":"U8","shape":[1],"data_offsets":[null,1]"#,
    ] {
        is_json(&entry(fields, b"1"));
    }
    let ones = vec!["1"; 65].join(",");
    let detail = is_json(&entry(&format!(r#""dtype":"U8","shape":[{ones}],"data_offsets":[0,1]"#), b"1"));
    assert!(detail.contains("64 dimensions"), "{detail}");
    for metadata in [r#"{"k":1}"#, r#"{"k":[1]}"#, "null", r#"{"k":null}"#] {
        is_json(&file(&format!(r#"{{"__metadata__":{metadata}}}"#), b""));
    }
}

#[test]
fn duplicate_key() {
    let a = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    let escaped = a.replacen('a', "\\u0061", 1);
    for json in [format!("{{{a},{a}}}"), format!("{{{a},{escaped}}}")] {
        assert_eq!(failure(&file(&json, b"1")), E::DuplicateKey { file: x(), key: "a".into() });
    }
    let bytes = entry(r#""dtype":"U8","shape":[1],"shape":[1],"data_offsets":[0,1]"#, b"1");
    assert_eq!(failure(&bytes), E::DuplicateKey { file: x(), key: "t: shape".into() });
    let bytes = file(r#"{"__metadata__":{"k":"1","k":"1"}}"#, b"");
    assert_eq!(failure(&bytes), E::DuplicateKey { file: x(), key: "__metadata__: k".into() });
}

#[test]
fn unknown_dtype() {
    for dtype in ["F8_E4M3FNUZ", "F8_E5M2FNUZ", "U32", "F4", "bf16", ""] {
        let bytes = entry(&format!(r#""dtype":"{dtype}","shape":[1],"data_offsets":[0,1]"#), b"1");
        let expected = E::UnknownDtype { file: x(), tensor: "t".into(), dtype: dtype.into() };
        assert_eq!(failure(&bytes), expected);
    }
}

#[test]
fn size_overflow() {
    let big = 1u64 << 62;
    for shape in [vec![big, 4], vec![big, 4, 0], vec![1 << 32, 1 << 31]] {
        let bytes = entry(&format!(r#""dtype":"F16","shape":{shape:?},"data_offsets":[0,1]"#), b"1");
        assert_eq!(failure(&bytes), E::SizeOverflow { file: x(), tensor: "t".into(), shape });
    }
    // The tensor fits into 2^64 bytes, but not behind its header.
    let bytes = entry(&format!(r#""dtype":"U8","shape":[{0}],"data_offsets":[0,{0}]"#, u64::MAX), b"");
    assert_eq!(failure(&bytes), E::SizeOverflow { file: x(), tensor: "t".into(), shape: vec![u64::MAX] });
}

#[test]
fn negative_size() {
    let json = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
        "b":{"dtype":"U8","shape":[1],"data_offsets":[4,3]}}"#;
    let expected = E::NegativeSize { file: x(), tensor: "b".into(), begin: 4, end: 3 };
    assert_eq!(failure(&file(json, b"1234")), expected);
}

#[test]
fn size_mismatch() {
    for (shape, end) in [(vec![2, 2], 7), (vec![2, 2], 9), (vec![], 1), (vec![0], 2)] {
        let bytes = entry(&format!(r#""dtype":"BF16","shape":{shape:?},"data_offsets":[0,{end}]"#), &[0; 9]);
        let expected = shape.iter().product::<u64>() * 2;
        let (dtype, tensor) = (Dtype::Bf16, "t".into());
        assert_eq!(
            failure(&bytes),
            E::SizeMismatch { file: x(), tensor, dtype, shape, bytes: end, expected }
        );
    }
}

#[test]
fn hole() {
    let bytes = entry(r#""dtype":"U8","shape":[1],"data_offsets":[1,2]"#, b"12");
    assert_eq!(failure(&bytes), E::Hole { file: x(), tensor: "t".into(), begin: 1, expected: 0 });
}

#[test]
fn overlap() {
    let json = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
        "b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}"#;
    let expected = E::Overlap { file: x(), tensor: "b".into(), begin: 3, expected: 4 };
    assert_eq!(failure(&file(json, b"12345")), expected);
}

#[test]
fn truncated_anywhere() {
    let whole = file_of(&[("a", Dtype::U8, &[3], b"abc"), ("b", Dtype::F32, &[1], b"1234")]);
    let expected = whole.len() as u64;
    for length in expected - 7..expected {
        let error = failure(&whole[..length as usize]);
        assert_eq!(error, E::Truncated { file: x(), bytes: length, expected });
    }
}

#[test]
fn trailing_bytes() {
    let mut bytes = file_of(&[("a", Dtype::U8, &[3], b"abc")]);
    let expected = bytes.len() as u64;
    bytes.push(0);
    assert_eq!(failure(&bytes), E::TrailingBytes { file: x(), expected });
    assert_eq!(failure(&file("{}", b"1")), E::TrailingBytes { file: x(), expected: 10 });
}

#[test]
fn row_too_long() {
    let row_bytes = ROW_LIMIT_BYTES + 1;
    let bytes = entry(
        &format!(r#""dtype":"U8","shape":[2,{0}],"data_offsets":[0,{1}]"#, row_bytes, 2 * row_bytes),
        b"",
    );
    assert_eq!(failure(&bytes), E::RowTooLong { file: x(), tensor: "t".into(), row_bytes });
    // Rows that do not exist are no obstacle.
    let none = entry(&format!(r#""dtype":"U8","shape":[0,{row_bytes}],"data_offsets":[0,0]"#), b"");
    events([&none[..]]).unwrap();
}

#[test]
fn poisoned_after_a_failure() {
    let mut parser = StreamParser::new(FILE);
    let mut ignore = |_: Event<'_>| Ok::<(), E>(());
    parser.write(&file("[]", b""), &mut ignore).unwrap_err();
    let poisoned = E::Poisoned { file: x() };
    assert_eq!(parser.write(b"", &mut ignore), Err(poisoned.clone()));
    assert_eq!(parser.end(&mut ignore), Err(poisoned));
}

#[test]
fn a_sink_that_fails_poisons_too() {
    #[derive(Debug, PartialEq)]
    enum Mine {
        Full,
        Checkpoint(CheckpointError),
    }
    impl From<CheckpointError> for Mine {
        fn from(error: CheckpointError) -> Mine {
            Mine::Checkpoint(error)
        }
    }
    let mut parser = StreamParser::new(FILE);
    let mut full = |event: Event<'_>| match event {
        Event::Chunk(_) => Err(Mine::Full),
        _ => Ok(()),
    };
    let bytes = file_of(&[("a", Dtype::U8, &[3], b"abc")]);
    assert_eq!(parser.write(&bytes, &mut full), Err(Mine::Full));
    assert_eq!(parser.end(&mut full), Err(Mine::Checkpoint(E::Poisoned { file: x() })));
}

fn check_finite(dtype: Dtype, shape: &[u64], data: &[u8]) -> Result<(), E> {
    let mut check = |event: Event<'_>| match event {
        Event::Chunk(chunk) => chunk.check_finite(FILE),
        _ => Ok(()),
    };
    StreamParser::new(FILE).write(&file_of(&[("w", dtype, shape, data)]), &mut check)
}

#[test]
fn not_finite() {
    let mut data = vec![0x3c; 3 << 20];
    assert_eq!(check_finite(Dtype::F8E4m3, &[3 << 10, 1 << 10], &data), Ok(()));
    for (at, code) in [(5, 0x7f), ((2 << 20) + 17, 0xff)] {
        data[at] = code;
        let error = check_finite(Dtype::F8E4m3, &[3 << 10, 1 << 10], &data).unwrap_err();
        let (tensor, dtype) = ("w".to_owned(), Dtype::F8E4m3);
        assert_eq!(error, E::NotFinite { file: x(), tensor, dtype, element: at as u64 });
        data[at] = 0;
    }
}

#[test]
fn values_of_a_wrong_kind() {
    let source = DtypeError::NotFloat(Dtype::I8);
    let expected = E::Values { file: x(), tensor: "w".into(), source };
    assert_eq!(check_finite(Dtype::I8, &[1], b"1"), Err(expected));
}

/// Messages say what and where.
#[test]
fn messages_carry_names_and_numbers() {
    let bytes = entry(r#""dtype":"BF16","shape":[2,2],"data_offsets":[0,7]"#, &[0; 7]);
    let message = failure(&bytes).to_string();
    assert_eq!(message, "x.safetensors: tensor t holds 7 bytes, but BF16 of shape [2, 2] needs 8");
    assert!(
        Header::parse(FILE, b"{")
            .unwrap_err()
            .to_string()
            .starts_with("x.safetensors: header is not valid: ")
    );
}
