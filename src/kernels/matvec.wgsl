// y = x W^T for few tokens (decode): LANES threads share ROWS neighbouring rows of W and
// stride along them, so that a warp reads 16 * LANES contiguous bytes of each row; x is read
// once for all of them. Partial sums meet in workgroup memory. A norm in front of the product is part of it
// (NORM, of the input's part). Four rows; eight where there is a norm and x and gain cost as much as weights, on
// adapters that compute on the CPU.
override WG: u32 = 64u;
override LANES: u32 = 32u;  // threads per ROWS rows; divides WG, a multiple of 8
override ROWS: u32 = 4u;    // or 8
override UPPER: u32 = 1u;   // WG where there are eight rows

var<workgroup> sums: array<vec4<f32>, WG>;
var<workgroup> upper_sums: array<vec4<f32>, UPPER>;

@compute @workgroup_size(WG)
fn matvec(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = wid.y;
    let lane = thread % LANES;
    let row0 = ((wid.x + wid.z * grid.x) * (WG / LANES) + thread / LANES) * ROWS;
    // Rows past the end read the last row and are not written.
    let last = params.rows - 1u;
    let rows = min(vec4<u32>(row0) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last));
    let base = rows * params.loads;
    let upper_rows = min(vec4<u32>(row0) + vec4<u32>(4u, 5u, 6u, 7u), vec4<u32>(last));
    let upper_base = upper_rows * params.loads;
    // Of a prompt only the last token is normed here.
    let x0 = select(token, batch.tokens - 1u, NORM && params.single == 1u) * params.x_pitch;
    var sum = vec4<f32>();
    var upper_sum = vec4<f32>();
    var square = 0.0;
    for (var load = lane; load < params.loads; load += LANES) {
        let w0 = weights[base.x + load];
        let w1 = weights[base.y + load];
        let w2 = weights[base.z + load];
        let w3 = weights[base.w + load];
        var w4 = vec4<u32>();
        var w5 = vec4<u32>();
        var w6 = vec4<u32>();
        var w7 = vec4<u32>();
        if (ROWS == 8u) {
            w4 = weights[upper_base.x + load];
            w5 = weights[upper_base.y + load];
            w6 = weights[upper_base.z + load];
            w7 = weights[upper_base.w + load];
        }
        var part = vec4<f32>();
        var upper_part = vec4<f32>();
        for (var q = 0u; q < QUARTERS; q++) {
            let column = load * QUARTERS + q;
            var v = x[x0 + column];
            if (NORM) {
                square += dot(v, v);  // columns beyond the width are zero
                v = gained(v, column);
            }
            part += vec4<f32>(dot(unpack4(w0, q), v), dot(unpack4(w1, q), v), dot(unpack4(w2, q), v), dot(unpack4(w3, q), v));
            if (ROWS == 8u) {
                upper_part += vec4<f32>(dot(unpack4(w4, q), v), dot(unpack4(w5, q), v), dot(unpack4(w6, q), v), dot(unpack4(w7, q), v));
            }
        }
        if (BLOCKS == 1u) {
            let at = rows * params.scale_blocks + load / params.loads_per_block;
            part *= vec4<f32>(scales[at.x], scales[at.y], scales[at.z], scales[at.w]);
            if (ROWS == 8u) {
                let upper_at = upper_rows * params.scale_blocks + load / params.loads_per_block;
                upper_part *= vec4<f32>(scales[upper_at.x], scales[upper_at.y], scales[upper_at.z], scales[upper_at.w]);
            }
        }
        sum += part;
        upper_sum += upper_part;
    }
    sums[thread] = sum;
    if (ROWS == 8u) {
        upper_sums[thread % UPPER] = upper_sum;
    }
    if (NORM) {
        squares[thread] = square;
    }
    workgroupBarrier();
    // Two stages instead of a tree: two barriers whatever LANES is.
    if (lane < 8u) {
        var part = vec4<f32>();
        for (var i = lane; i < LANES; i += 8u) {
            part += sums[thread - lane + i];
        }
        sums[thread] = part;
        if (ROWS == 8u) {
            var upper = vec4<f32>();
            for (var i = lane; i < LANES; i += 8u) {
                upper += upper_sums[(thread - lane + i) % UPPER];
            }
            upper_sums[thread % UPPER] = upper;
        }
        if (NORM) {
            var partial = 0.0;
            for (var i = lane; i < LANES; i += 8u) {
                partial += squares[thread - lane + i];
            }
            squares[thread] = partial;
        }
    }
    workgroupBarrier();
    // A thread for each row finishes.
    let row = row0 + lane;
    if (lane < ROWS && row < params.rows) {
        var total = 0.0;
        var all = 0.0;
        for (var i = 0u; i < 8u; i++) {
            if (lane < 4u) {
                total += sums[thread - lane + i][lane];
            } else {
                total += upper_sums[(thread - lane + i) % UPPER][lane - 4u];
            }
            if (NORM) {
                all += squares[thread - lane + i];
            }
        }
        write_y(token, row, total * inverse_rms(all));
    }
}
