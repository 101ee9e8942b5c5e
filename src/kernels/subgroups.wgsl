// Whether neighbours in a workgroup exchange what shared/reduce_subgroup.wgsl has them exchange: sums of FOLD
// neighbours, as they are made there.
@group(0) @binding(0) var<storage, read> values: array<f32>;      // (WG)
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;  // (WG) of the FOLD neighbours that a thread is one of

override WG: u32 = 64u;
override FOLD: u32 = 4u;

@compute @workgroup_size(WG)
fn subgroups(@builtin(local_invocation_index) thread: u32) {
    var sum = values[thread];
    for (var step = FOLD / 2u; step > 0u; step /= 2u) {
        sum += subgroupShuffleXor(sum, step);
    }
    sums[thread] = sum;
}
