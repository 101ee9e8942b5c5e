//! Sums of neighbours. Twin of subgroups.wgsl.

/// `values (WG)`, `sums (WG)`: of the `fold` neighbours that a thread is one of.
pub fn subgroups(fold: u32, values: &[f32], sums: &mut [f32]) {
    for (sums, values) in sums.chunks_mut(fold as usize).zip(values.chunks(fold as usize)) {
        sums.fill(values.iter().sum());
    }
}
