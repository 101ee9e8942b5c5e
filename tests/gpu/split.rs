//! Matrices in several buffers, and uploads in ragged pieces.

use bise::dtype::Dtype;
use bise::gpu::{Gpu, GpuError, GpuMatrix, LimitChoice, Purpose, Uploader, read_buffer};
use bise::kernels::WebGpu;
use bise::steps::MatrixSpec;

use super::common::{open, padded_weights, random_rows, random_weights};
use super::decoder::MODEL;
use super::model::{Model, ids, logits};
use crate::common::Random;

/// Every matrix of the model below exceeds this; its activations do not.
const SMALL: u64 = 9_728;

#[test]
fn a_split_decoder_gives_the_same_bits() {
    let f8 = (Dtype::F8E4m3, u32::MAX);
    let model = Model { seed: 61, embed: f8, linear: f8, up: f8, hidden: 210, window: Some(9), ..MODEL };
    let mut of_limits = Vec::new();
    // Without subgroups, in which sums are rounded in another order, on either side.
    for limits in [LimitChoice::Default, LimitChoice::Binding(SMALL)] {
        let Some(gpu) = open(limits) else { return };
        let mut backend = pollster::block_on(WebGpu::new(gpu, model.shape())).unwrap();
        if limits == LimitChoice::Binding(SMALL) {
            let weights = model.weights(&mut backend).unwrap();
            let layer = &weights.layers[1];
            let linear = [&layer.qkv[0].1, &layer.output, &layer.gate, &layer.up, &layer.down];
            for matrix in linear.into_iter().chain([&weights.embed, weights.head()]) {
                assert!(matrix.parts.len() > 1, "{} is not split", matrix.spec.label);
            }
        }
        let mut decoder = model.decoder(backend);
        of_limits.push(logits(&mut decoder, &ids(63, 19), &[8, 3, 8], &ids(64, 4)));
    }
    assert!(of_limits[0] == of_limits[1], "{model:?}");
    assert!(of_limits[0][0].iter().all(|v| v.is_finite()) && of_limits[0][0] != of_limits[0][1]);
}

/// The contents of all parts, one after the other.
fn stored(gpu: &Gpu, matrix: &GpuMatrix) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::new();
    let mut scales = Vec::new();
    for part in &matrix.parts {
        let read = |buffer: &wgpu::Buffer, length: u64| {
            let length = length.next_multiple_of(4);
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let staging = gpu.buffer("readback", length, usage, Purpose::Activations).unwrap();
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(buffer, 0, staging.raw(), 0, length);
            gpu.queue().submit([encoder.finish()]);
            pollster::block_on(read_buffer(gpu, staging.raw(), (length / 4) as u32)).unwrap()
        };
        let words = read(part.weights.raw(), u64::from(part.rows) * matrix.row_stride());
        bytes.extend_from_slice(bytemuck::cast_slice(&words));
        if matrix.scale_blocks() > 0 {
            scales.extend(read(part.scales.raw(), u64::from(part.rows * matrix.scale_blocks()) * 4));
        }
    }
    (bytes, scales)
}

#[test]
fn rows_arrive_whatever_the_pieces() {
    let Some(gpu) = open(LimitChoice::Binding(1024)) else { return };
    let seed = 65;
    let mut random = Random::new(seed);
    for (dtype, cols, scale_cols) in [
        (Dtype::F8E4m3, 1, 1),
        (Dtype::F8E4m3, 5, 0),
        (Dtype::F8E5m2, 33, 16),
        (Dtype::Bf16, 3, 3),
        (Dtype::F16, 9, 8),
        (Dtype::Bf16, 8, 0),
        (Dtype::F32, 7, 4),
        (Dtype::F32, 4, 0),
    ] {
        for pieces in [1, 3, 29, 150] {
            let rows = 150;
            let spec = MatrixSpec { label: "w".into(), rows, cols, dtype, scale_cols };
            let matrix = GpuMatrix::new(&gpu, 1, &spec).unwrap();
            assert!(matrix.parts.len() > 1, "{spec:?}");
            let packed = random_weights(&mut random, dtype, rows, cols);
            let blocks = matrix.scale_blocks();
            let scales = random_rows(&mut random, rows, blocks, blocks);
            let mut uploader = Uploader::default();
            let row_bytes = cols as usize * dtype.size_bytes() as usize;
            for (index, piece) in packed.chunks(row_bytes * pieces).enumerate() {
                uploader.rows(&gpu, &matrix, (index * pieces) as u32, piece).unwrap();
            }
            if blocks > 0 {
                for (index, piece) in scales.chunks(blocks as usize * pieces).enumerate() {
                    uploader.scales(&gpu, &matrix, (index * pieces) as u32, piece).unwrap();
                }
            }
            pollster::block_on(uploader.finish(&gpu)).unwrap();
            let (bytes, stored_scales) = stored(&gpu, &matrix);
            let want = padded_weights(&packed, dtype, rows, cols);
            assert!(bytes == want, "seed {seed}, {spec:?} in pieces of {pieces} rows");
            assert_eq!(stored_scales, scales, "seed {seed}, {spec:?} in pieces of {pieces} rows");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(gpu) = open(LimitChoice::Binding(1024)) else { return };
    let spec = MatrixSpec { label: "w".into(), rows: 5, cols: 20, dtype: Dtype::F8E4m3, scale_cols: 16 };
    let matrix = GpuMatrix::new(&gpu, 1, &spec).unwrap();
    let mut uploader = Uploader::default();
    for (first_row, length) in [(0, 19), (0, 21), (4, 40), (5, 20), (0, 120)] {
        let result = uploader.rows(&gpu, &matrix, first_row, &vec![0; length]);
        assert!(matches!(result, Err(GpuError::Shape { .. })), "{first_row} {length}");
    }
    for (first_row, length) in [(0, 1), (4, 4), (0, 12)] {
        let result = uploader.scales(&gpu, &matrix, first_row, &vec![0.0; length]);
        assert!(matches!(result, Err(GpuError::Shape { .. })), "{first_row} {length}");
    }
    let new = |dtype, cols, scale_cols| {
        GpuMatrix::new(&gpu, 2, &MatrixSpec { dtype, cols, scale_cols, ..spec.clone() })
    };
    assert!(matches!(new(Dtype::I8, 20, 0), Err(GpuError::Shape { .. })));
    assert!(matches!(new(Dtype::F8E4m3, 20, 8), Err(GpuError::Shape { .. })), "blocks inside a load");
    assert!(matches!(new(Dtype::Bf16, 513, 0), Err(GpuError::TooLarge { limit: 1024, .. })));
    assert!(new(Dtype::Bf16, 512, 0).is_ok());
}
