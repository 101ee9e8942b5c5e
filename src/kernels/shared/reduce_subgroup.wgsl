// How the threads that share rows join their sums: FOLD neighbours in registers, by exchange within a subgroup,
// then what is left in workgroup memory: one barrier, or none where LANES are FOLD. That neighbours in a workgroup
// are neighbours in a subgroup is tested when a device is opened (subgroups.wgsl).
override FOLD: u32 = 4u;  // at most LANES, and threads that every subgroup has; a power of two, at least 4

override SUMS: u32 = 1u;    // WG / FOLD where LANES are more
override OTHERS: u32 = 1u;  // the same where there are two matrices
override SHARES: u32 = 1u;  // the same where there is a norm

var<workgroup> sums: array<vec4<f32>, SUMS>;
var<workgroup> other_sums: array<vec4<f32>, OTHERS>;
var<workgroup> shares: array<f32, SHARES>;

// Sums over the lanes: of the lane's component of both, and of the square. For the first four lanes.
fn totals(own: vec4<f32>, other: vec4<f32>, square: f32, lane: u32, thread: u32) -> vec3<f32> {
    var a = own;
    var b = other;
    var c = square;
    for (var step = FOLD / 2u; step > 0u; step /= 2u) {
        a += subgroupShuffleXor(a, step);
        if (PAIR == 1u) {
            b += subgroupShuffleXor(b, step);
        }
        if (NORM == 1u) {
            c += subgroupShuffleXor(c, step);
        }
    }
    var total = vec3<f32>(a[lane % 4u], b[lane % 4u], c);
    if (LANES > FOLD) {
        if (lane % FOLD == 0u) {
            sums[thread / FOLD] = a;
            if (PAIR == 1u) {
                other_sums[thread / FOLD] = b;
            }
            if (NORM == 1u) {
                shares[thread / FOLD] = c;
            }
        }
        workgroupBarrier();
        total = vec3<f32>();
        let first = (thread - lane) / FOLD;
        for (var i = first; i < first + LANES / FOLD; i++) {
            total.x += sums[i][lane % 4u];
            if (PAIR == 1u) {
                total.y += other_sums[i][lane % 4u];
            }
            if (NORM == 1u) {
                total.z += shares[i];
            }
        }
    }
    return total;
}

// The sum over the first four lanes.
fn of_four(value: f32, thread: u32) -> f32 {
    let two = value + subgroupShuffleXor(value, 1u);
    return two + subgroupShuffleXor(two, 2u);
}
