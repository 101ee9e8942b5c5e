//! The `safetensors` crate as oracle, both ways, and over damaged headers.

use bise::checkpoint::sink::MemorySink;
use bise::checkpoint::writer::{Plan, TensorSpec, Writer};
use bise::checkpoint::{CheckpointError, Event, StreamParser, TensorInfo};
use bise::dtype::Dtype;
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Theirs, TensorView, serialize};

use crate::common::Random;
use crate::support::{file, info};

const DTYPES: [(Dtype, Theirs); 13] = [
    (Dtype::F64, Theirs::F64),
    (Dtype::F32, Theirs::F32),
    (Dtype::F16, Theirs::F16),
    (Dtype::Bf16, Theirs::BF16),
    (Dtype::F8E4m3, Theirs::F8_E4M3),
    (Dtype::F8E5m2, Theirs::F8_E5M2),
    (Dtype::F8E8m0, Theirs::F8_E8M0),
    (Dtype::I64, Theirs::I64),
    (Dtype::I32, Theirs::I32),
    (Dtype::I16, Theirs::I16),
    (Dtype::I8, Theirs::I8),
    (Dtype::U8, Theirs::U8),
    (Dtype::Bool, Theirs::BOOL),
];

/// Name, dtype and shape of a few tensors; names are unique and need not be ASCII.
fn tensors() -> impl Strategy<Value = Vec<TensorSpec>> {
    let name = "[a-z\u{e9}\"\\\\\n.]{0,6}";
    let one = (name, 0..DTYPES.len(), prop::collection::vec(0u64..5, 0..4));
    let unique = |all: Vec<(String, usize, Vec<u64>)>| {
        let spec = |(i, (name, dtype, shape)): (usize, (String, usize, Vec<u64>))| TensorSpec {
            name: format!("{name}{i}"),
            dtype: DTYPES[dtype].0,
            shape,
        };
        all.into_iter().enumerate().map(spec).collect()
    };
    prop::collection::vec(one, 0..8).prop_map(unique)
}

type Tensors = Vec<(String, Dtype, Vec<u64>, Vec<u8>)>;

fn with_data(specs: Vec<TensorSpec>, seed: u64) -> Tensors {
    let mut random = Random::new(seed);
    let data = |s: TensorSpec| {
        let bytes = random.bytes(info("", s.dtype, &s.shape).bytes() as usize);
        (s.name, s.dtype, s.shape, bytes)
    };
    let mut tensors: Tensors = specs.into_iter().map(data).collect();
    tensors.sort();
    tensors
}

/// What bise reads from a file that arrives in pieces of that size, by name.
fn ours(bytes: &[u8], piece: usize) -> Result<Tensors, CheckpointError> {
    let mut parser = StreamParser::new("x");
    let mut tensors: Tensors = Vec::new();
    let mut data = Vec::new();
    let mut sink = |event: Event<'_>| -> Result<(), CheckpointError> {
        match event {
            Event::Header(_) => {}
            Event::Chunk(chunk) => data.extend_from_slice(chunk.bytes),
            Event::End(TensorInfo { name, dtype, shape, .. }) => {
                tensors.push((name.clone(), *dtype, shape.clone(), std::mem::take(&mut data)));
            }
        }
        Ok(())
    };
    for piece in bytes.chunks(piece) {
        parser.write(piece, &mut sink)?;
    }
    parser.end(&mut sink)?;
    tensors.sort();
    Ok(tensors)
}

/// What the crate reads, by name; `None` stands for a dtype that bise does not know.
fn theirs(bytes: &[u8]) -> Result<Option<Tensors>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let convert = |(name, view): (&str, TensorView<'_>)| {
        let dtype = DTYPES.iter().find(|(_, theirs)| *theirs == view.dtype())?.0;
        let shape = view.shape().iter().map(|d| *d as u64).collect();
        Some((name.to_owned(), dtype, shape, view.data().to_vec()))
    };
    let tensors: Option<Tensors> = file.iter().map(convert).collect();
    Ok(tensors.map(|mut tensors| {
        tensors.sort();
        tensors
    }))
}

fn written_by_the_crate(tensors: &Tensors) -> Vec<u8> {
    let view = |(name, dtype, shape, bytes): &'_ (String, Dtype, Vec<u64>, Vec<u8>)| {
        let theirs = DTYPES.iter().find(|(ours, _)| ours == dtype).unwrap().1;
        let shape = shape.iter().map(|d| *d as usize).collect();
        // The views borrow; leaking keeps this test simple.
        (name.clone(), TensorView::new(theirs, shape, bytes.clone().leak()).unwrap())
    };
    serialize(tensors.iter().map(view), Some([("format".to_owned(), "pt".to_owned())].into())).unwrap()
}

fn written_by_us(tensors: &Tensors) -> Vec<u8> {
    let spec = |(name, dtype, shape, _): &(String, Dtype, Vec<u64>, Vec<u8>)| TensorSpec {
        name: name.clone(),
        dtype: *dtype,
        shape: shape.clone(),
    };
    let plan = Plan::new(tensors.iter().map(spec).collect(), u64::MAX).unwrap();
    pollster::block_on(async {
        let mut writer = Writer::new(&plan, MemorySink::default());
        for planned in plan.tensors() {
            let (.., bytes) = tensors.iter().find(|(name, ..)| *name == planned.name).unwrap();
            for piece in bytes.chunks(5) {
                writer.write(&planned.name, piece).await.unwrap();
            }
        }
        writer.finish().await.unwrap().files.remove("model.safetensors").unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn we_read_what_the_crate_writes(specs in tensors(), seed: u64, piece in 1usize..200) {
        let tensors = with_data(specs, seed);
        let bytes = written_by_the_crate(&tensors);
        prop_assert_eq!(ours(&bytes, piece).unwrap(), tensors);
    }

    #[test]
    fn the_crate_reads_what_we_write(specs in tensors(), seed: u64) {
        let tensors = with_data(specs, seed);
        let bytes = written_by_us(&tensors);
        let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        prop_assert_eq!(header_bytes % 8, 0);
        prop_assert_eq!(theirs(&bytes).unwrap().unwrap(), tensors);
    }
}

/// Where bise is stricter on purpose; `header.rs` lists the reasons.
fn is_documented_difference(error: &CheckpointError) -> bool {
    match error {
        CheckpointError::DuplicateKey { .. }
        | CheckpointError::UnknownDtype { .. }
        | CheckpointError::HeaderNotObject { .. } => true,
        CheckpointError::HeaderJson { detail, .. } => {
            ["is unknown or of the wrong type", "invalid type", "64 dimensions"]
                .iter()
                .any(|m| detail.contains(m))
        }
        _ => false,
    }
}

/// Either both refuse a file, or both read the same from it. Returns whether they read it.
fn agree(bytes: &[u8], what: &str) -> bool {
    match (ours(bytes, 7), theirs(bytes)) {
        (Ok(ours), Ok(Some(theirs))) => {
            assert_eq!(ours, theirs, "{what}");
            true
        }
        (Err(_), Err(_)) => false,
        (Err(error), Ok(_)) if is_documented_difference(&error) => false,
        (ours, theirs) => panic!("{what}: bise {ours:?}, crate {theirs:?}\n{}", bytes.escape_ascii()),
    }
}

#[test]
fn damaged_headers_are_judged_as_the_crate_does() {
    let specs = [("a", Dtype::F32, vec![2, 2]), ("b.c", Dtype::U8, vec![3]), ("z", Dtype::Bf16, vec![0, 4])];
    let spec = |(name, dtype, shape): &(&str, Dtype, Vec<u64>)| TensorSpec {
        name: name.to_string(),
        dtype: *dtype,
        shape: shape.clone(),
    };
    let whole = written_by_us(&with_data(specs.iter().map(spec).collect(), 3));
    assert!(agree(&whole, "undamaged"));
    let json_bytes = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let (json, data) = (&whole[8..8 + json_bytes], &whole[8 + json_bytes..]);
    let alphabet = b"0123456789,:[]{}\"abF8UI_-. \\e\n\x00\xff";
    let mut read = 0;
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let mut json = json.to_vec();
        for _ in 0..=random.below(3) {
            let at = random.below(json.len() as u64) as usize;
            let with = alphabet[random.below(alphabet.len() as u64) as usize];
            match random.below(5) {
                0 => json.insert(at, with),
                1 => drop(json.remove(at)),
                2 => json[at] = with,
                3 => {
                    let other = random.below(json.len() as u64) as usize;
                    json.swap(at, other);
                }
                _ => {
                    // A stretch of the header a second time.
                    let end = (at + random.below(60) as usize).min(json.len());
                    let copy = json[at..end].to_vec();
                    json.splice(at..at, copy);
                }
            }
        }
        let mut bytes = [&(json.len() as u64).to_le_bytes()[..], &json, data].concat();
        if random.below(4) == 0 {
            // The length, or the end of the file, is damaged as well.
            if random.below(2) == 0 {
                bytes[random.below(8) as usize] ^= 1 << random.below(8);
            } else {
                bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            }
        }
        read += usize::from(agree(&bytes, &format!("seed {seed}")));
    }
    // Few random edits are harmless; the next test has more of those.
    assert!((100..15_000).contains(&read), "{read} of 20000 were readable");
}

/// Headers that are well-formed JSON and right but for a number, an order or a dtype.
#[test]
fn almost_right_headers_are_judged_as_the_crate_does() {
    let mut read = 0;
    for seed in 0..20_000 {
        let mut random = Random::new(seed);
        let (mut entries, mut data_bytes) = (Vec::new(), 0u64);
        for i in 0..random.below(5) {
            let (dtype, _) = DTYPES[random.below(13) as usize];
            let shape: Vec<u64> = (0..random.below(4)).map(|_| random.below(4)).collect();
            let begin = data_bytes;
            data_bytes += info("", dtype, &shape).bytes();
            entries.push((format!("t{i}"), dtype, shape, [begin, data_bytes]));
        }
        let mut length = data_bytes;
        if let Some(at) = (random.below(2) * entries.len() as u64).checked_sub(1) {
            let (_, dtype, shape, offsets) = &mut entries[random.below(at + 1) as usize];
            let nudge = |n: &mut u64, by: u64| *n = if by == 0 { n.saturating_sub(1) } else { *n + by };
            match random.below(6) {
                0 => *dtype = DTYPES[random.below(13) as usize].0,
                1 => shape.reverse(),
                2 => shape.push(1 + random.below(2)),
                3 => nudge(&mut offsets[random.below(2) as usize], random.below(3)),
                4 => nudge(&mut length, random.below(3)),
                _ => shape.iter_mut().for_each(|d| *d += 1),
            }
        }
        for i in (1..entries.len()).rev() {
            entries.swap(i, random.below(i as u64 + 1) as usize);
        }
        let entry = |(name, dtype, shape, offsets): &(String, Dtype, Vec<u64>, [u64; 2])| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{offsets:?}}}"#)
        };
        let json = format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(","));
        let bytes = file(&json, &random.bytes(length as usize));
        read += usize::from(agree(&bytes, &format!("seed {seed}")));
    }
    // Neither all harmless nor all fatal, or the comparison would say little.
    assert!((8_000..18_000).contains(&read), "{read} of 20000 were readable");
}

#[test]
fn documented_differences_are_the_listed_ones() {
    let a = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    let extra = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1}"#;
    let ones = vec!["1"; 65].join(",");
    let ranks = format!(r#""a":{{"dtype":"U8","shape":[{ones}],"data_offsets":[0,1]}}"#);
    let space = file(&format!(" {{{a}}}"), b"1");
    assert!(theirs(&space).is_ok() && is_documented_difference(&ours(&space, 9).unwrap_err()));
    for entries in [
        format!("{a},{a}"),
        extra.to_owned(),
        r#""a":["U8",[1],[0,1]]"#.to_owned(),
        format!(r#""__metadata__":null,{a}"#),
        format!(r#""a":{}"#, r#"{"dtype":"F8_E4M3FNUZ","shape":[1],"data_offsets":[0,1]}"#),
        ranks,
    ] {
        let bytes = file(&format!("{{{entries}}}"), b"1");
        assert!(theirs(&bytes).is_ok(), "the crate refuses {entries}: {:?}", theirs(&bytes));
        assert!(is_documented_difference(&ours(&bytes, 9).unwrap_err()), "{entries}");
    }
}
