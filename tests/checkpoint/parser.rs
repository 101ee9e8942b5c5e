//! What comes out does not depend on how it went in.

use std::sync::Arc;

use bise::checkpoint::{CheckpointError, Event, Header, StreamParser};
use bise::dtype::Dtype;

use crate::common::Random;
use crate::support::{Seen, events, file, file_of, info};

/// Odd offsets, a scalar, tensors of no bytes at the start, in the middle and at the end.
fn small() -> Vec<u8> {
    file_of(&[
        ("empty.first", Dtype::F32, &[0, 3], &[]),
        ("a", Dtype::U8, &[3], b"abc"),
        ("scalar", Dtype::F32, &[], b"1234"),
        ("empty.middle", Dtype::I64, &[2, 0], &[]),
        ("m", Dtype::Bf16, &[2, 3], b"0123456789ab"),
        ("z", Dtype::F8E4m3, &[1, 1, 2], b"xy"),
        ("zz.empty", Dtype::Bool, &[0], &[]),
    ])
}

#[test]
fn whole_file_gives_every_tensor_in_order() {
    let chunk = |name: &str, bytes: &[u8]| Seen::Chunk(name.into(), 0, bytes.to_vec());
    let end = |name: &str| Seen::End(name.into());
    let expected = [
        Seen::Header(7),
        end("empty.first"),
        chunk("a", b"abc"),
        end("a"),
        chunk("scalar", b"1234"),
        end("scalar"),
        end("empty.middle"),
        chunk("m", b"0123456789ab"),
        end("m"),
        chunk("z", b"xy"),
        end("z"),
        end("zz.empty"),
    ];
    assert_eq!(events([&small()[..]]).unwrap(), expected);
}

#[test]
fn all_single_and_double_cuts_give_the_same_events() {
    let bytes = small();
    let whole = events([&bytes[..]]).unwrap();
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            // Two cuts at the same place are one, with an empty piece between.
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            assert_eq!(events(pieces).unwrap(), whole, "cuts at {first} and {second}");
        }
    }
    assert_eq!(events(bytes.chunks(1)).unwrap(), whole, "byte by byte");
}

/// Tensors of several chunks, of rows as long as a chunk and longer, and small ones between.
fn large() -> Vec<u8> {
    let mut random = Random::new(5);
    let shapes: [(&str, Dtype, &[u64]); 6] = [
        ("a", Dtype::F32, &[1500, 500]),
        ("b", Dtype::U8, &[7]),
        ("c", Dtype::Bf16, &[3, 600_000]),
        ("d", Dtype::U8, &[2, 1 << 20]),
        ("e", Dtype::F8E4m3, &[1_000_003, 1]),
        ("f", Dtype::F32, &[1, 1]),
    ];
    let data: Vec<_> = shapes.iter().map(|(n, d, s)| random.bytes(info(n, *d, s).bytes() as usize)).collect();
    let tensors: Vec<_> = shapes.iter().zip(&data).map(|((n, d, s), b)| (*n, *d, *s, &b[..])).collect();
    file_of(&tensors)
}

#[test]
fn random_splits_of_a_large_file_give_the_same_events() {
    let bytes = large();
    let whole = events([&bytes[..]]).unwrap();
    let offsets = |name: &str| -> Vec<u64> {
        let of = |seen: &Seen| match seen {
            Seen::Chunk(tensor, offset, _) if tensor == name => Some(*offset),
            _ => None,
        };
        whole.iter().filter_map(of).collect()
    };
    // 524 rows of 2000 bytes; one row of 1.2 MB; exactly 1 MiB; 2^20 rows of one byte.
    assert_eq!(offsets("a"), [0, 1_048_000, 2_096_000]);
    assert_eq!(offsets("c"), [0, 1_200_000, 2_400_000]);
    assert_eq!(offsets("d"), [0, 1 << 20]);
    assert_eq!(offsets("e"), [0]);
    for seed in 0..60 {
        let mut random = Random::new(seed);
        // From a few bytes to a few chunks.
        let limit = 1u64 << (4 + seed % 19);
        let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
        while !rest.is_empty() {
            let floor = if limit < 1000 { 200 } else { 0 };
            let length = (random.below(limit) + floor).min(rest.len() as u64) as usize;
            let (piece, after) = rest.split_at(length);
            pieces.push(piece);
            rest = after;
        }
        // assert_eq would print megabytes.
        assert!(events(pieces).unwrap() == whole, "seed {seed}");
    }
}

/// Negative control: a split that loses a byte is seen.
#[test]
fn a_changed_byte_changes_the_events() {
    let mut bytes = small();
    let whole = events([&bytes[..]]).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    assert_ne!(events([&bytes[..]]).unwrap(), whole);
}

#[test]
fn whole_chunks_are_passed_on_without_copying() {
    let bytes = large();
    let inside = bytes.as_ptr_range();
    let mut sink = |event: Event<'_>| -> Result<(), CheckpointError> {
        if let Event::Chunk(chunk) = event {
            assert!(inside.contains(&chunk.bytes.as_ptr()));
        }
        Ok(())
    };
    let mut parser = StreamParser::new("x");
    parser.write(&bytes, &mut sink).unwrap();
    parser.end(&mut sink).unwrap();
}

fn header_of(bytes: &[u8]) -> Header {
    let json_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    Header::parse("x", &bytes[8..8 + json_bytes]).unwrap()
}

#[test]
fn parser_can_start_at_the_data_or_at_a_tensor() {
    let bytes = small();
    let header = Arc::new(header_of(&bytes));
    let data = &bytes[header.data_start as usize..];
    let whole = events([&bytes[..]]).unwrap();
    for first in 0..header.tensors.len() {
        for last in first..header.tensors.len() {
            let mut seen: Vec<Seen> = Vec::new();
            let mut sink = |event: Event<'_>| -> Result<(), CheckpointError> {
                seen.push(event.into());
                Ok(())
            };
            let mut parser = StreamParser::at_tensors("x", header.clone(), first..last + 1).unwrap();
            let range = header.tensors[first].begin as usize..header.tensors[last].end as usize;
            for piece in data[range].chunks(2) {
                parser.write(piece, &mut sink).unwrap();
            }
            parser.end(&mut sink).unwrap();
            let wanted: Vec<_> = header.tensors[first..=last].iter().map(|t| t.name.clone()).collect();
            let of = |seen: &&Seen| match seen {
                Seen::Header(_) => false,
                Seen::Chunk(name, ..) | Seen::End(name) => wanted.contains(name),
            };
            assert_eq!(seen, whole.iter().filter(of).cloned().collect::<Vec<_>>());
        }
    }
    let mut parser = StreamParser::at_data("x", header).unwrap();
    let mut ignore = |_: Event<'_>| Ok::<(), CheckpointError>(());
    parser.write(data, &mut ignore).unwrap();
    parser.end(&mut ignore).unwrap();
}

#[test]
fn rows_and_chunks_follow_from_shape_and_dtype() {
    for (shape, dtype, rows, row_bytes, chunk_bytes) in [
        (&[][..], Dtype::F64, 1, 8, 8),
        (&[5][..], Dtype::Bf16, 1, 10, 10),
        (&[4096, 4096][..], Dtype::Bf16, 4096, 8192, 1 << 20),
        (&[32000, 4096][..], Dtype::F32, 32000, 16384, 1 << 20),
        (&[4096, 14336][..], Dtype::Bf16, 4096, 28672, 28672 * 36),
        (&[2, 3, 7][..], Dtype::U8, 6, 7, 42),
        (&[3, 2 << 20][..], Dtype::U8, 3, 2 << 20, 2 << 20),
        (&[0, 7][..], Dtype::F32, 0, 28, 0),
        (&[7, 0][..], Dtype::F32, 0, 0, 0),
    ] {
        let info = info("t", dtype, shape);
        let got = (info.rows(), info.row_bytes(), info.chunk_bytes());
        assert_eq!(got, (rows, row_bytes, chunk_bytes), "{shape:?} {dtype}");
    }
}

#[test]
fn tensors_beyond_four_gibibytes_keep_their_offsets() {
    let (a, b) = (70_000u64 * 40_000 * 2, 200_000u64 * 50_000 * 4);
    let json = format!(
        r#"{{"b":{{"dtype":"F32","shape":[200000,50000],"data_offsets":[{a},{}]}},
            "c":{{"dtype":"BF16","shape":[2,2],"data_offsets":[{},{}]}},
            "a":{{"dtype":"BF16","shape":[70000,40000],"data_offsets":[0,{a}]}}}}"#,
        a + b,
        a + b,
        a + b + 8,
    );
    let header = Header::parse("x", json.as_bytes()).unwrap();
    let names: Vec<_> = header.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(header.data_bytes(), 45_600_000_008);
    assert_eq!(header.file_bytes(), 45_600_000_008 + 8 + json.len() as u64);
    assert_eq!((header.tensors[1].begin, header.tensors[1].rows()), (5_600_000_000, 200_000));
    // The last tensor alone, as a stream that starts behind 45 GB would bring it.
    let mut seen: Vec<Seen> = Vec::new();
    let mut sink = |event: Event<'_>| -> Result<(), CheckpointError> {
        seen.push(event.into());
        Ok(())
    };
    let mut parser = StreamParser::at_tensors("x", Arc::new(header), 2..3).unwrap();
    parser.write(b"01234567", &mut sink).unwrap();
    parser.end(&mut sink).unwrap();
    assert_eq!(seen, [Seen::Chunk("c".into(), 0, b"01234567".to_vec()), Seen::End("c".into())]);
}

#[test]
fn header_may_be_padded_and_carry_metadata() {
    let json = "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"\\u00e9\"},\
        \"a\":{\"data_offsets\":[0,1],\"shape\":[1],\"dtype\":\"U8\"}}     \n";
    let header = Header::parse("x", json.as_bytes()).unwrap();
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(header.metadata["k"], "é");
    assert_eq!(events([&file(json, b"1")[..]]).unwrap().len(), 3);
    assert_eq!(events([&file("{}", b"")[..]]).unwrap(), [Seen::Header(0)]);
}
