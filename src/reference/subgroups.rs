//! Sums of neighbours, and their values. Twin of subgroups.wgsl.

/// `values (WG)`, `found (1 + log2 fold, WG)`: the sum of the `fold` neighbours that a thread is one of; then the
/// values of those 1, 2, 4 ... away from it, by exclusive or.
pub fn subgroups(fold: u32, values: &[f32], found: &mut [f32]) {
    let (sums, others) = found.split_at_mut(values.len());
    for (sums, values) in sums.chunks_mut(fold as usize).zip(values.chunks(fold as usize)) {
        sums.fill(values.iter().sum());
    }
    for (step, others) in others.chunks_mut(values.len()).enumerate() {
        for (thread, other) in others.iter_mut().enumerate() {
            *other = values[thread ^ (1 << step)];
        }
    }
}
