//! What a merge did to each tensor.

use serde::Serialize;

use super::slerp::Branch;

/// One combination of tensors: the result's own, or that of an earlier document in the chain.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TensorReport {
    /// Name in the document's result.
    pub tensor: String,
    /// The document, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// How it came about.
    pub method: Combination,
    /// The tensors it was made from, the base first: `model: tensor`.
    pub sources: Vec<String>,
    /// Factors of the sources.
    pub coefficients: Vec<f64>,
    /// Euclidean norms of the sources.
    pub norms: Vec<f64>,
    /// Euclidean distances of the result (before rounding) from the sources.
    pub distances: Vec<f64>,
    /// Where it was computed, `cpu` or `gpu`: `cpu` also where the CPU ended what a GPU had begun.
    pub path: &'static str,
    /// Whether it belongs to the last document, the result.
    #[serde(skip)]
    pub(super) is_of_the_last: bool,
    /// SLERP only: what the angle between the two says.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub slerp: Option<SlerpReport>,
}

/// How a tensor came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Combination {
    /// SLERP of two.
    Slerp,
    /// Weighted sum.
    Linear,
    /// Taken as it is, or scaled.
    Passthrough,
}

/// What SLERP measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SlerpReport {
    /// Where between both: 0 is the base.
    pub t: f64,
    /// Cosine of the angle between them.
    pub dot: f64,
    /// Which formula that led to.
    pub branch: Branch,
}

/// A whole merge.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MergeReport {
    /// Every combination, in the order in which it was done.
    pub tensors: Vec<TensorReport>,
    /// What was strange about the recipe or the models.
    pub warnings: Vec<String>,
    /// Sums over `tensors`.
    pub totals: Totals,
}

/// Sums over all tensors of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Tensors of the result.
    pub tensors: u64,
    /// Their elements.
    pub parameters: u64,
    /// Combinations that were SLERPs with the spherical formula.
    pub spherical: u64,
    /// Combinations that were SLERPs with the linear formula.
    pub linear: u64,
    /// Relative distance of the whole result from the two parents of a plain SLERP:
    /// `sqrt(sum |r - a|² / sum |a|²)`, over all SLERPs of the last document.
    pub distances: [f64; 2],
}

impl MergeReport {
    /// Adds up what is there. `documents` is the number of documents in the recipe.
    pub(super) fn total(&mut self, documents: usize) {
        let mut totals = Totals::default();
        let mut squares = [[0.0; 2]; 2];
        let last = |report: &&TensorReport| documents < 2 || report.is_of_the_last;
        for report in &self.tensors {
            match &report.slerp {
                Some(slerp) if slerp.branch == Branch::Spherical => totals.spherical += 1,
                Some(_) => totals.linear += 1,
                None => {}
            }
        }
        for report in self.tensors.iter().filter(last) {
            totals.tensors += 1;
            totals.parameters += report.shape.iter().product::<u64>();
            if report.slerp.is_some() {
                let pairs = report.distances.iter().zip(&report.norms);
                for ([distance, norm], (d, n)) in squares.iter_mut().zip(pairs) {
                    *distance += d * d;
                    *norm += n * n;
                }
            }
        }
        totals.distances =
            squares.map(|[distance, norm]| if norm > 0.0 { (distance / norm).sqrt() } else { 0.0 });
        self.totals = totals;
    }
}
