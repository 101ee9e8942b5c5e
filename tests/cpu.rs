//! The CPU's steps against the plain ones of `reference`: every format, odd sizes, prompts cut anywhere,
//! a rolling cache.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use bise::cpu::{Cpu, CpuError};
use bise::dtype::{self, Dtype, decode_e4m3, decode_e5m2, narrow};
use bise::reference::Reference;
use bise::steps::{Batch, CacheForm, DecoderShape, MatrixSpec, Slot, Steps, Store, Write};
use pollster::block_on;

const FORMATS: [Dtype; 5] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F8E4m3, Dtype::F8E5m2];

/// Nothing in it is a multiple of what loops step by.
fn shape() -> DecoderShape {
    DecoderShape {
        hidden: 53,
        intermediate: 37,
        layers: 1,
        heads: 6,
        kv_heads: 2,
        head_dim: 10,
        vocab: 71,
        norm_epsilon: 1e-5,
        window: Some(9),
        context: 48,
        max_batch: 7,
        inv_freq: vec![1.0, 0.4, 0.16, 0.06, 0.02],
        rope_scale: 1.0,
        kv_cache: CacheForm::F16,
    }
}

/// For weights that take whole steps of 16 columns: blocks that end early, rows that fill no four.
fn stepped_shape() -> DecoderShape {
    DecoderShape {
        hidden: 144,
        intermediate: 272,
        head_dim: 24,
        inv_freq: (0..12).map(|i| 0.5f32.powi(i)).collect(),
        ..shape()
    }
}

fn shape_for(dtype: Dtype) -> DecoderShape {
    if dtype == Dtype::I8 { stepped_shape() } else { shape() }
}

/// A generator of the same numbers everywhere, in [-1, 1).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn take(&mut self, count: u32) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

fn matrix<B: Store>(
    backend: &mut B,
    numbers: &mut Numbers,
    (rows, cols): (u32, u32),
    dtype: Dtype,
    scale_cols: u32,
) -> B::Matrix {
    let spec = MatrixSpec { label: "w".into(), rows, cols, dtype, scale_cols };
    let matrix = backend.matrix(&spec).unwrap();
    let mut bytes = Vec::new();
    let values = numbers.take(rows * cols);
    match dtype {
        Dtype::I8 => bytes.extend(values.iter().map(|value| (value * 127.0) as i8 as u8)),
        _ => narrow(dtype, &values, &mut bytes).unwrap(),
    }
    // In two pieces, as from a file.
    let (row_bytes, half) = (bytes.len() / rows as usize, rows / 2);
    let (top, bottom) = bytes.split_at(half as usize * row_bytes);
    backend.write_rows(&matrix, half, bottom).unwrap();
    backend.write_rows(&matrix, 0, top).unwrap();
    if scale_cols != 0 {
        let scales: Vec<f32> =
            numbers.take(rows * cols.div_ceil(scale_cols)).iter().map(|s| s * 0.4 + 0.6).collect();
        backend.write_scales(&matrix, 0, &scales).unwrap();
    }
    matrix
}

fn vector<B: Store>(backend: &mut B, numbers: &mut Numbers, len: u32) -> B::Vector {
    let vector = backend.vector("norm", len).unwrap();
    backend.write_vector(&vector, &numbers.take(len)).unwrap();
    vector
}

trait Read {
    fn slot(&self, slot: Slot, rows: u32) -> Vec<f32>;
}

impl Read for Cpu {
    fn slot(&self, slot: Slot, rows: u32) -> Vec<f32> {
        self.read(slot, rows)
    }
}

impl Read for Reference {
    fn slot(&self, slot: Slot, rows: u32) -> Vec<f32> {
        self.read(slot, rows)
    }
}

/// What every step leaves, in order, over passes that cut a sequence in every way.
fn steps_of<B: Steps + Read>(b: &mut B, dtype: Dtype, scale_cols: u32, seed: u64) -> Vec<(String, Vec<f32>)> {
    steps_in(shape_for(dtype), b, dtype, scale_cols, seed)
}

fn steps_in<B: Steps + Read>(
    shape: DecoderShape,
    b: &mut B,
    dtype: Dtype,
    scale_cols: u32,
    seed: u64,
) -> Vec<(String, Vec<f32>)> {
    let mut n = Numbers(seed);
    let (hidden, mlp) = (shape.hidden, shape.intermediate);
    let table = matrix(b, &mut n, (shape.vocab, hidden), dtype, scale_cols);
    let norm = vector(b, &mut n, hidden);
    let q = matrix(b, &mut n, (shape.q_width(), hidden), dtype, scale_cols);
    let kv = matrix(b, &mut n, (2 * shape.kv_width(), hidden), Dtype::Bf16, 0);
    let output = matrix(b, &mut n, (hidden, shape.q_width()), dtype, scale_cols);
    let gate = matrix(b, &mut n, (mlp, hidden), dtype, scale_cols);
    let up = matrix(b, &mut n, (mlp, hidden), Dtype::F16, 0);
    let down = matrix(b, &mut n, (hidden, mlp), dtype, scale_cols);
    let mut left = Vec::new();
    let mut position = 0;
    for (tokens, prompt) in [(7, true), (1, true), (5, true), (1, false), (1, false), (6, true), (1, false)] {
        let ids: Vec<u32> = (position..position + tokens).map(|p| p * 13 % shape.vocab).collect();
        b.begin(&Batch { ids: &ids, position, prompt }).unwrap();
        let at = format!("of {tokens} at {position}, prompt {prompt}");
        let note = |left: &mut Vec<_>, b: &B, step: &str, slot, rows| {
            left.push((format!("{step} {at}"), b.slot(slot, rows)));
        };
        b.embed(&table).unwrap();
        note(&mut left, b, "embed", Slot::X, tokens);
        b.rms_norm(Slot::X, &norm, Slot::Normed).unwrap();
        note(&mut left, b, "rms_norm", Slot::Normed, tokens);
        b.linear(Slot::Normed, &q, Slot::Qkv, 0, Write::Set).unwrap();
        b.linear(Slot::Normed, &kv, Slot::Qkv, shape.q_width(), Write::Set).unwrap();
        note(&mut left, b, "qkv", Slot::Qkv, tokens);
        b.rope_store(0).unwrap();
        // Rotated keys go into the cache alone in one of them: attention reads them there.
        let queries = b.slot(Slot::Qkv, tokens);
        let queries =
            queries.chunks(shape.qkv_width() as usize).flat_map(|row| &row[..shape.q_width() as usize]);
        left.push((format!("rope {at}"), queries.copied().collect()));
        b.attend(0).unwrap();
        note(&mut left, b, "attend", Slot::AttnOut, tokens);
        b.linear(Slot::AttnOut, &output, Slot::X, 0, Write::Add).unwrap();
        note(&mut left, b, "output", Slot::X, tokens);
        b.gated_linear(Slot::Normed, &gate, &up).unwrap();
        note(&mut left, b, "gated", Slot::Mlp, tokens);
        b.linear(Slot::Mlp, &down, Slot::X, 0, Write::Add).unwrap();
        note(&mut left, b, "down", Slot::X, tokens);
        b.rms_norm(Slot::X, &norm, Slot::LastNormed).unwrap();
        note(&mut left, b, "last norm", Slot::LastNormed, 1);
        b.linear(Slot::LastNormed, &table, Slot::Logits, 0, Write::Set).unwrap();
        let logits = block_on(b.finish(true)).unwrap().unwrap();
        left.push((format!("logits at {position}"), logits));
        position += tokens;
    }
    left
}

/// Whether each value is within a share of the step's largest.
fn agree(got: &[(String, Vec<f32>)], expected: &[(String, Vec<f32>)], share: f32) -> Result<(), String> {
    assert_eq!(got.len(), expected.len());
    for ((step, got), (_, expected)) in got.iter().zip(expected) {
        assert_eq!(got.len(), expected.len(), "{step}");
        let largest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
        assert!(largest > 1e-3, "{step}: all zero");
        for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
            let off = (got - expected).abs();
            if off.is_nan() || off > share * largest {
                return Err(format!("{step}: element {at} is {got}, not {expected}"));
            }
        }
    }
    Ok(())
}

#[test]
fn every_step_agrees_with_the_reference_in_every_format() {
    let floats = FORMATS.iter().flat_map(|dtype| [0, 16, 48, 64].map(|scale_cols| (*dtype, scale_cols)));
    for (dtype, scale_cols) in floats.chain([(Dtype::I8, 128)]) {
        let got = steps_of(&mut Cpu::new(shape_for(dtype), None).unwrap(), dtype, scale_cols, 5);
        let expected = steps_of(&mut Reference::new(shape_for(dtype)), dtype, scale_cols, 5);
        agree(&got, &expected, 2e-4).unwrap_or_else(|e| panic!("{dtype}, blocks of {scale_cols}: {e}"));
    }
}

#[test]
fn a_cache_of_fp8_agrees_with_the_reference() {
    for shape in [shape(), stepped_shape()] {
        let shape_of = |kv_cache| DecoderShape { kv_cache, ..shape.clone() };
        let reference =
            |form| steps_in(shape_of(form), &mut Reference::new(shape_of(form)), Dtype::F32, 0, 5);
        let f8 = shape_of(CacheForm::F8);
        let got = steps_in(f8.clone(), &mut Cpu::new(f8, None).unwrap(), Dtype::F32, 0, 5);
        agree(&got, &reference(CacheForm::F8), 2e-4).unwrap();
        // It is no cache of f16, but near one.
        let wide = reference(CacheForm::F16);
        agree(&got, &wide, 2e-3).unwrap_err();
        agree(&got, &wide, 0.25).unwrap();
    }
}

/// Half the memory, but for scales and what fills up a tile.
#[test]
fn a_cache_of_fp8_takes_half() {
    let bytes = |kv_cache| {
        let shape = DecoderShape { head_dim: 64, inv_freq: vec![1.0; 32], kv_cache, ..shape() };
        let cpu = Cpu::new(shape.clone(), None).unwrap();
        assert_eq!(cpu.bytes()[1], Cpu::memory(&shape)[0]);
        (cpu.bytes()[1], shape.cache_bytes())
    };
    let ((wide, wide_gpu), (narrow, narrow_gpu)) = (bytes(CacheForm::F16), bytes(CacheForm::F8));
    assert_eq!((narrow * 128, narrow_gpu * 128), (wide * 68, wide_gpu * 72));
}

/// Negative control: one other seed of the weights, and a value that is a thousandth off, are noticed.
#[test]
fn the_comparison_notices_what_is_wrong() {
    let expected = steps_of(&mut Reference::new(shape()), Dtype::F8E4m3, 0, 5);
    let other = steps_of(&mut Cpu::new(shape(), None).unwrap(), Dtype::F8E4m3, 0, 6);
    agree(&other, &expected, 2e-4).unwrap_err();
    let mut nudged = expected.clone();
    let values = &mut nudged[4].1;
    let largest = values.iter().fold(0f32, |most, value| most.max(value.abs()));
    values[9] += largest * 1e-3;
    agree(&nudged, &expected, 2e-4).unwrap_err();
}

#[test]
fn every_fp8_code_is_widened_exactly() {
    const CODES: u32 = 256;
    const COLS: u32 = 19;
    let shape = DecoderShape {
        hidden: COLS,
        intermediate: CODES,
        vocab: COLS,
        context: 64,
        max_batch: COLS,
        ..shape()
    };
    for (dtype, decode) in [(Dtype::F8E4m3, decode_e4m3 as fn(u8) -> f32), (Dtype::F8E5m2, decode_e5m2)] {
        let mut cpu = Cpu::new(shape.clone(), None).unwrap();
        let spec = |rows, dtype| MatrixSpec { label: "w".into(), rows, cols: COLS, dtype, scale_cols: 0 };
        // Row r of the weights is all code r; token t is 1 in column t.
        let weights = cpu.matrix(&spec(CODES, dtype)).unwrap();
        let codes: Vec<u8> = (0..=255).flat_map(|code| [code; COLS as usize]).collect();
        cpu.write_rows(&weights, 0, &codes).unwrap();
        let table = cpu.matrix(&spec(COLS, Dtype::F32)).unwrap();
        let unit: Vec<f32> = (0..COLS * COLS).map(|at| f32::from(u8::from(at / COLS == at % COLS))).collect();
        let mut bytes = Vec::new();
        dtype::narrow(Dtype::F32, &unit, &mut bytes).unwrap();
        cpu.write_rows(&table, 0, &bytes).unwrap();
        let ids: Vec<u32> = (0..COLS).collect();
        let mut seen = 0;
        let passes = [(&ids[..], true)].into_iter().chain(ids.chunks(1).map(|id| (id, false)));
        for (ids, prompt) in passes {
            cpu.begin(&Batch { ids, position: 0, prompt }).unwrap();
            cpu.embed(&table).unwrap();
            cpu.linear(Slot::X, &weights, Slot::Mlp, 0, Write::Set).unwrap();
            for row in cpu.read(Slot::Mlp, ids.len() as u32).chunks(CODES as usize) {
                for (code, got) in (0..=255u8).zip(row) {
                    let value = decode(code);
                    if value.is_finite() {
                        assert_eq!(*got, value, "{dtype} {code:#x}, prompt {prompt}");
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, 2 * COLS * if dtype == Dtype::F8E4m3 { 254 } else { 248 });
    }
}

/// A prompt gives the same bits however it is cut.
#[test]
fn prompts_may_be_cut_anywhere() {
    let run = |dtype, scale_cols, cuts: &[u32]| {
        let (shape, mut n) = (shape_for(dtype), Numbers(9));
        let mut cpu = Cpu::new(shape.clone(), None).unwrap();
        let table = matrix(&mut cpu, &mut n, (shape.vocab, shape.hidden), dtype, scale_cols);
        let qkv = matrix(&mut cpu, &mut n, (shape.qkv_width(), shape.hidden), dtype, scale_cols);
        let mut position = 0;
        let mut last = Vec::new();
        for &tokens in cuts {
            let ids: Vec<u32> = (position..position + tokens).map(|p| p * 7 % shape.vocab).collect();
            cpu.begin(&Batch { ids: &ids, position, prompt: true }).unwrap();
            cpu.embed(&table).unwrap();
            cpu.linear(Slot::X, &qkv, Slot::Qkv, 0, Write::Set).unwrap();
            cpu.rope_store(0).unwrap();
            cpu.attend(0).unwrap();
            let width = shape.q_width() as usize;
            last = cpu.read(Slot::AttnOut, tokens).split_off((tokens as usize - 1) * width);
            position += tokens;
        }
        last
    };
    for (dtype, scale_cols) in [(Dtype::F8E4m3, 64), (Dtype::I8, 128)] {
        let whole = run(dtype, scale_cols, &[7, 7, 7, 7, 7]);
        for cuts in [&[1; 35][..], &[3, 7, 2, 7, 6, 7, 3], &[7, 6, 7, 7, 7, 1]] {
            assert_eq!(run(dtype, scale_cols, cuts), whole, "{dtype} {cuts:?}");
        }
    }
}

/// Which elements are NaN after a position whose activations overflow, and then without it.
fn not_numbers<B: Steps + Read>(b: &mut B, dtype: Dtype) -> Vec<(String, Vec<bool>)> {
    let (shape, mut n) = (shape_for(dtype), Numbers(11));
    let scale_cols = if dtype == Dtype::I8 { 128 } else { 0 };
    let table = matrix(b, &mut n, (shape.vocab, shape.hidden), dtype, scale_cols);
    let gain = b.vector("norm", shape.hidden).unwrap();
    let q = matrix(b, &mut n, (shape.q_width(), shape.hidden), dtype, scale_cols);
    let kv = matrix(b, &mut n, (2 * shape.kv_width(), shape.hidden), dtype, scale_cols);
    let gate = matrix(b, &mut n, (shape.intermediate, shape.hidden), dtype, scale_cols);
    let up = matrix(b, &mut n, (shape.intermediate, shape.hidden), dtype, scale_cols);
    let mut left = Vec::new();
    // What overflows spoils the positions behind it, but not those before; it is written over at last.
    let passes = [(0, 1, 1.0), (1, 2, f32::MAX), (3, 1, 1.0), (1, 3, 1.0), (0, 5, f32::MAX), (0, 4, 1.0)];
    for (position, tokens, gains) in passes {
        b.write_vector(&gain, &vec![gains; shape.hidden as usize]).unwrap();
        let ids: Vec<u32> = (position..position + tokens).map(|p| p * 13 % shape.vocab).collect();
        b.begin(&Batch { ids: &ids, position, prompt: tokens > 1 }).unwrap();
        b.embed(&table).unwrap();
        b.rms_norm(Slot::X, &gain, Slot::Normed).unwrap();
        b.linear(Slot::Normed, &q, Slot::Qkv, 0, Write::Set).unwrap();
        b.linear(Slot::Normed, &kv, Slot::Qkv, shape.q_width(), Write::Set).unwrap();
        b.rope_store(0).unwrap();
        b.attend(0).unwrap();
        b.gated_linear(Slot::Normed, &gate, &up).unwrap();
        for slot in [Slot::AttnOut, Slot::Mlp] {
            let values = b.slot(slot, tokens).iter().map(|value| value.is_nan()).collect();
            left.push((format!("{slot:?} of {tokens} at {position}, gains of {gains}"), values));
        }
    }
    left
}

#[test]
fn what_is_no_number_stays_none() {
    for dtype in [Dtype::I8, Dtype::Bf16] {
        let got = not_numbers(&mut Cpu::new(shape_for(dtype), None).unwrap(), dtype);
        let expected = not_numbers(&mut Reference::new(shape_for(dtype)), dtype);
        assert_eq!(got, expected, "{dtype}");
        let is_seen = |wanted: &str, any: bool| {
            let (_, values) = got.iter().find(|(step, _)| step == wanted).unwrap();
            assert!(values.iter().all(|nan| *nan == any), "{dtype}: {wanted}");
        };
        is_seen("AttnOut of 1 at 0, gains of 1", false);
        is_seen("AttnOut of 1 at 3, gains of 1", true);
        is_seen("Mlp of 1 at 3, gains of 1", false);
        is_seen("AttnOut of 3 at 1, gains of 1", false);
        is_seen("AttnOut of 4 at 0, gains of 1", false);
    }
}

/// The inverse of a scale below 2^-128 is infinite: such inputs count as zeros.
#[test]
fn integers_of_the_smallest_inputs_are_zeros() {
    let (shape, mut n) = (shape_for(Dtype::I8), Numbers(12));
    let mut cpu = Cpu::new(shape.clone(), None).unwrap();
    let table = matrix(&mut cpu, &mut n, (shape.vocab, shape.hidden), Dtype::I8, 128);
    let q = matrix(&mut cpu, &mut n, (shape.q_width(), shape.hidden), Dtype::I8, 128);
    let gain = cpu.vector("norm", shape.hidden).unwrap();
    for (gains, largest) in [(1e-37, 1e-30), (1e-33, 1e-28), (1e-40, 1e-30)] {
        cpu.write_vector(&gain, &vec![gains; shape.hidden as usize]).unwrap();
        cpu.begin(&Batch { ids: &[3], position: 0, prompt: false }).unwrap();
        cpu.embed(&table).unwrap();
        cpu.rms_norm(Slot::X, &gain, Slot::Normed).unwrap();
        cpu.linear(Slot::Normed, &q, Slot::Qkv, 0, Write::Set).unwrap();
        let found = cpu.read(Slot::Qkv, 1).iter().fold(0f32, |most, value| most.max(value.abs()));
        let row = cpu.read(Slot::Qkv, 1);
        assert!(row.iter().all(|value| value.is_finite()) && found < largest, "{gains}: {found}");
        assert_eq!(gains == 1e-33, found > 1e-34, "{gains}: {found}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut cpu = Cpu::new(shape(), None).unwrap();
    let spec =
        |rows, cols, dtype, scale_cols| MatrixSpec { label: "w".into(), rows, cols, dtype, scale_cols };
    let shape_error = |result: Result<(), CpuError>, part: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, CpuError::Shape { .. }) && error.to_string().contains(part), "{error}");
    };
    shape_error(cpu.matrix(&spec(2, 40, Dtype::I32, 0)).map(drop), "I32");
    shape_error(cpu.matrix(&spec(2, 40, Dtype::I8, 128)).map(drop), "I8 has 40 columns");
    shape_error(cpu.matrix(&spec(2, 48, Dtype::I8, 48)).map(drop), "blocks of 48");
    let narrow = cpu.matrix(&spec(2, 48, Dtype::I8, 128)).unwrap();
    shape_error(cpu.write_rows(&narrow, 2, &[0; 48]), "from row 2 of 2");
    shape_error(cpu.write_scales(&narrow, 1, &[1.0; 2]), "2 elements");
    shape_error(cpu.matrix(&spec(2, 40, Dtype::F8E4m3, 20)).map(drop), "20 columns");
    let matrix = cpu.matrix(&spec(2, 40, Dtype::F8E4m3, 40)).unwrap();
    shape_error(cpu.write_rows(&matrix, 1, &[0; 80]), "from row 1 of 2");
    shape_error(cpu.write_rows(&matrix, 0, &[0; 39]), "39 elements");
    shape_error(cpu.write_scales(&matrix, 0, &[1.0; 3]), "3 elements");
    let vector = cpu.vector("norm", 3).unwrap();
    shape_error(cpu.write_vector(&vector, &[1.0; 4]), "4 values");
    for (ids, position, prompt) in [(0, 0, true), (8, 0, true), (2, 0, false), (2, 47, true)] {
        shape_error(cpu.begin(&Batch { ids: &vec![0; ids], position, prompt }), "room for 7");
    }
    let error = cpu.matrix(&spec(u32::MAX, u32::MAX, Dtype::F32, 0)).unwrap_err();
    assert!(matches!(error, CpuError::OutOfMemory { .. }), "{error}");
    assert!(error.to_string().contains("bytes"), "{error}");
}
