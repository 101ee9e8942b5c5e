// y = x W^T for few tokens (decode): LANES threads share four neighbouring rows of W and
// stride along them, so that a warp reads 16 * LANES contiguous bytes of each row; x is read
// once for all four. Partial sums meet in workgroup memory. A norm in front of the product is part of it
// (NORM, of the input's part).
override WG: u32 = 64u;
override LANES: u32 = 32u;  // threads per four rows; divides WG, a multiple of 8

var<workgroup> sums: array<vec4<f32>, WG>;

@compute @workgroup_size(WG)
fn matvec(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = wid.y;
    let lane = thread % LANES;
    let row0 = ((wid.x + wid.z * grid.x) * (WG / LANES) + thread / LANES) * 4u;
    // Rows past the end read the last row and are not written.
    let last = params.rows - 1u;
    let rows = min(vec4<u32>(row0) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(last));
    let base = rows * params.loads;
    // Of a prompt only the last token is normed here.
    let x0 = select(token, batch.tokens - 1u, NORM && params.single == 1u) * params.x_pitch;
    var sum = vec4<f32>();
    var square = 0.0;
    for (var load = lane; load < params.loads; load += LANES) {
        let w0 = weights[base.x + load];
        let w1 = weights[base.y + load];
        let w2 = weights[base.z + load];
        let w3 = weights[base.w + load];
        var part = vec4<f32>();
        for (var q = 0u; q < QUARTERS; q++) {
            let column = load * QUARTERS + q;
            var v = x[x0 + column];
            if (NORM) {
                square += dot(v, v);  // columns beyond the width are zero
                v = gained(v, column);
            }
            part += vec4<f32>(dot(unpack4(w0, q), v), dot(unpack4(w1, q), v), dot(unpack4(w2, q), v), dot(unpack4(w3, q), v));
        }
        if (BLOCKS == 1u) {
            let at = rows * params.scale_blocks + load / params.loads_per_block;
            part *= vec4<f32>(scales[at.x], scales[at.y], scales[at.z], scales[at.w]);
        }
        sum += part;
    }
    sums[thread] = sum;
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
        if (NORM) {
            var partial = 0.0;
            for (var i = lane; i < LANES; i += 8u) {
                partial += squares[thread - lane + i];
            }
            squares[thread] = partial;
        }
    }
    workgroupBarrier();
    // Four threads finish, one row each.
    let row = row0 + lane;
    if (lane < 4u && row < params.rows) {
        var total = 0.0;
        var all = 0.0;
        for (var i = 0u; i < 8u; i++) {
            total += sums[thread - lane + i][lane];
            if (NORM) {
                all += squares[thread - lane + i];
            }
        }
        write_y(token, row, total * inverse_rms(all));
    }
}
