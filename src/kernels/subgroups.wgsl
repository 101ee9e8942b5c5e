// Whether neighbours in a workgroup exchange what shared/reduce_subgroup.wgsl has them exchange: sums of FOLD
// neighbours, as they are made there, and whose value a thread gets at each step. The sums alone would not tell
// neighbours in another order, of which fewer than all do not sum up right.
@group(0) @binding(0) var<storage, read> values: array<f32>;      // (WG)
@group(0) @binding(1) var<storage, read_write> found: array<f32>;  // (1 + log2 FOLD, WG): sums; values from 1, 2, 4 ... away

override WG: u32 = 64u;
override FOLD: u32 = 4u;

@compute @workgroup_size(WG)
fn subgroups(@builtin(local_invocation_index) thread: u32) {
    let value = values[thread];
    var sum = value;
    for (var step = FOLD / 2u; step > 0u; step /= 2u) {
        sum += subgroupShuffleXor(sum, step);
    }
    found[thread] = sum;
    var at = thread + WG;
    for (var step = 1u; step < FOLD; step *= 2u) {
        found[at] = subgroupShuffleXor(value, step);
        at += WG;
    }
}
