//! A device that keeps what is written to it: what a load leaves there, bit for bit.

use std::collections::BTreeMap;
use std::rc::Rc;

use bise::checkpoint::source::read_all;
use bise::checkpoint::{ByteSource, Manifest};
use bise::engine::Kept;
use bise::engine::fill::Target;
use bise::model::{Config, Precision, WeightPlan, Weights};
use bise::steps::{MatrixSpec, Store};
use pollster::block_on;

/// What was written of a matrix, by row.
#[derive(Clone, PartialEq)]
struct Matrix {
    spec: MatrixSpec,
    rows: BTreeMap<u32, Vec<u8>>,
    scales: BTreeMap<u32, Vec<u32>>,
}

/// Keeps what is written to it.
#[derive(Clone, Default, PartialEq)]
pub struct Recorder {
    matrices: Vec<Matrix>,
    vectors: Vec<Vec<u32>>,
}

#[derive(Debug, thiserror::Error)]
#[error("never")]
pub struct Never;

impl Store for Recorder {
    type Matrix = usize;
    type Vector = usize;
    type Error = Never;

    fn matrix(&mut self, spec: &MatrixSpec) -> Result<usize, Never> {
        self.matrices.push(Matrix { spec: spec.clone(), rows: BTreeMap::new(), scales: BTreeMap::new() });
        Ok(self.matrices.len() - 1)
    }

    fn write_rows(&mut self, matrix: &usize, first_row: u32, bytes: &[u8]) -> Result<(), Never> {
        let Matrix { spec, rows, .. } = &mut self.matrices[*matrix];
        let row_bytes = (u64::from(spec.cols) * spec.dtype.size_bytes()) as usize;
        assert!(bytes.len().is_multiple_of(row_bytes));
        rows.extend((first_row..).zip(bytes.chunks_exact(row_bytes).map(<[u8]>::to_vec)));
        Ok(())
    }

    fn write_scales(&mut self, matrix: &usize, first_row: u32, scales: &[f32]) -> Result<(), Never> {
        let Matrix { spec, scales: kept, .. } = &mut self.matrices[*matrix];
        let per_row = spec.cols.div_ceil(spec.scale_cols) as usize;
        let rows = scales.chunks_exact(per_row).map(|row| row.iter().map(|scale| scale.to_bits()).collect());
        kept.extend((first_row..).zip(rows));
        Ok(())
    }

    fn vector(&mut self, _label: &str, len: u32) -> Result<usize, Never> {
        self.vectors.push(vec![0; len as usize]);
        Ok(self.vectors.len() - 1)
    }

    fn write_vector(&mut self, vector: &usize, values: &[f32]) -> Result<(), Never> {
        self.vectors[*vector] = values.iter().map(|value| value.to_bits()).collect();
        Ok(())
    }

    async fn allocated(&mut self) -> Result<(), Never> {
        Ok(())
    }

    async fn relieve(&mut self) -> Result<(), Never> {
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Never> {
        Ok(())
    }
}

impl Recorder {
    /// Whether every row, scale and vector was written.
    pub fn is_full(&self) -> bool {
        let matrix = |Matrix { spec, rows, scales }: &Matrix| {
            rows.len() == spec.rows as usize && (spec.scale_cols == 0 || scales.len() == spec.rows as usize)
        };
        !self.matrices.is_empty() && self.matrices.iter().all(matrix)
    }
}

/// Loads all weights as an engine does.
pub fn recorded<S: ByteSource>(source: &S, precision: Precision) -> Recorder {
    block_on(async {
        let json = read_all(source, "config.json", None, 1 << 20).await.unwrap();
        let (config, config_json) = (Config::parse(&json).unwrap(), serde_json::from_slice(&json).unwrap());
        let manifest = Manifest::read(source).await.unwrap();
        let plan = WeightPlan::new(&config, &config_json, &manifest, precision).unwrap();
        let mut backend = Recorder::default();
        let weights = Weights::allocate(&plan, &mut backend).unwrap();
        let mut target = Target { plan: &plan, weights: &weights, backend: &mut backend };
        let kept = Rc::new(Kept::nothing());
        kept.fill(source, &manifest, &mut target, &|| false, &mut |_| ()).await.unwrap();
        assert!(backend.is_full());
        backend
    })
}
