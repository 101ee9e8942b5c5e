// How the threads that share rows join their sums: in workgroup memory.
const JOINED: u32 = 8u;  // partial sums that a row's last thread adds up, at most

override OTHERS: u32 = 1u;  // WG where there are two matrices
override SHARES: u32 = 1u;  // WG where there is a norm

var<workgroup> sums: array<vec4<f32>, WG>;
var<workgroup> other_sums: array<vec4<f32>, OTHERS>;
var<workgroup> shares: array<f32, SHARES>;
var<workgroup> tails: array<f32, WG>;

// Sums over the lanes: of the lane's component of both, and of the square. For the first four lanes.
fn totals(own: vec4<f32>, other: vec4<f32>, square: f32, lane: u32, thread: u32) -> vec3<f32> {
    sums[thread] = own;
    if (PAIR == 1u) {
        other_sums[thread] = other;
    }
    if (NORM == 1u) {
        shares[thread] = square;
    }
    workgroupBarrier();
    let first = thread - lane;
    // Two stages instead of a tree: two barriers at most, whatever LANES is.
    if (LANES > JOINED) {
        if (lane < JOINED) {
            var a = vec4<f32>();
            var b = vec4<f32>();
            var c = 0.0;
            for (var i = lane; i < LANES; i += JOINED) {
                a += sums[first + i];
                if (PAIR == 1u) {
                    b += other_sums[first + i];
                }
                if (NORM == 1u) {
                    c += shares[first + i];
                }
            }
            sums[thread] = a;
            if (PAIR == 1u) {
                other_sums[thread] = b;
            }
            if (NORM == 1u) {
                shares[thread] = c;
            }
        }
        workgroupBarrier();
    }
    var total = vec3<f32>();
    if (lane < 4u) {
        let count = min(LANES, JOINED);
        for (var i = 0u; i < count; i++) {
            total.x += sums[first + i][lane];
            if (PAIR == 1u) {
                total.y += other_sums[first + i][lane];
            }
            if (NORM == 1u) {
                total.z += shares[first + i];
            }
        }
    }
    return total;
}

// The sum over the first four lanes. For the first of them.
fn of_four(value: f32, thread: u32) -> f32 {
    tails[thread] = value;
    workgroupBarrier();
    let first = thread - thread % LANES;
    return tails[first] + tails[first + 1u] + tails[first + 2u] + tails[first + 3u];
}
