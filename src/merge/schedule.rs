//! Gradients and filters: the value of a parameter for one tensor.

use super::recipe::Parameter;

/// Value of a gradient at `position` in [0, 1]: linear between anchors that are spread evenly.
pub fn gradient(anchors: &[f64], position: f64) -> f64 {
    let last = anchors.len().saturating_sub(1);
    let scaled = position.clamp(0.0, 1.0) * last as f64;
    let left = (scaled.floor() as usize).min(last);
    let fraction = scaled - left as f64;
    let at = |i: usize| anchors.get(i.min(last)).copied().unwrap_or(0.0);
    (1.0 - fraction) * at(left) + fraction * at(left + 1)
}

/// Position of the layer with that index among the `layers` of its slice.
pub fn position(index: u32, layers: u32) -> f64 {
    if layers > 1 { f64::from(index) / f64::from(layers - 1) } else { 1.0 }
}

/// The value for `tensor` (its full name) at `position`: of the scopes, most specific first, the
/// first one with a condition that matches; of its conditions, the first that does.
pub fn value<'a>(
    scopes: impl IntoIterator<Item = Option<&'a Parameter>>,
    tensor: &str,
    position: f64,
) -> Option<f64> {
    let matches = |filter: &Option<String>| filter.as_deref().is_none_or(|f| f == "*" || tensor.contains(f));
    scopes.into_iter().flatten().find_map(|parameter| {
        let condition = parameter.conditions.iter().find(|condition| matches(&condition.filter))?;
        Some(gradient(&condition.anchors, position))
    })
}
