//! The merge methods and what they take.

use super::Method;
use super::reader::{At, shown, suggestion};
use crate::merge::MergeError;

/// The methods that mergekit has and bise has not.
const NOT_HERE: [&str; 17] = [
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "karcher",
    "model_stock",
    "multislerp",
    "nearswap",
    "nuslerp",
    "ram",
    "ramplus_tl",
    "sce",
    "task_arithmetic",
    "ties",
];

/// A parameter of a method.
pub(super) struct ParameterSpec {
    pub name: &'static str,
    /// Each model of a slice may have its own.
    pub per_source: bool,
    /// There is no default.
    pub required: bool,
    /// `true` or `false` instead of a number.
    pub boolean: bool,
}

const T: ParameterSpec = ParameterSpec { name: "t", per_source: false, required: true, boolean: false };
const WEIGHT: ParameterSpec =
    ParameterSpec { name: "weight", per_source: true, required: true, boolean: false };
const NORMALIZE: ParameterSpec =
    ParameterSpec { name: "normalize", per_source: false, required: false, boolean: true };
const SCALE: ParameterSpec =
    ParameterSpec { name: "scale", per_source: true, required: false, boolean: false };

impl Method {
    /// All that there are.
    pub const ALL: [Method; 3] = [Method::Slerp, Method::Linear, Method::Passthrough];

    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Method::Slerp => "slerp",
            Method::Linear => "linear",
            Method::Passthrough => "passthrough",
        }
    }

    pub(super) fn parameters(self) -> &'static [ParameterSpec] {
        match self {
            Method::Slerp => &[T],
            Method::Linear => &[WEIGHT, NORMALIZE],
            Method::Passthrough => &[SCALE],
        }
    }

    pub(super) fn parse(at: &At<'_>) -> Result<Self, MergeError> {
        let word = at.text("the name of a merge method")?;
        if let Some(method) = Self::ALL.into_iter().find(|method| method.name() == word) {
            return Ok(method);
        }
        let names = Self::ALL.map(Self::name);
        let here = names.join(", ");
        if NOT_HERE.contains(&word) {
            return Err(
                at.error(format!("{word} is not supported: bise merges with {here}; mergekit has it"))
            );
        }
        let (meant, word) = (suggestion(word, names), shown(word));
        Err(at.error(format!("no merge method is called {word}{meant} (there are: {here})")))
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
