// y = x W^T for few tokens (decode): LANES threads share four neighbouring rows of W and
// stride along them, so that a warp reads 16 * LANES contiguous bytes of each row; x is read
// once for all of them. How their sums meet, and what a norm in front of the product or behind it asks for, is in
// parts of their own.
override WG: u32 = 64u;
override LANES: u32 = 32u;  // threads per four rows; divides WG; 4, 8 or a multiple of 8

const PAIR: u32 = 0u;  // 1: of two matrices

// Of a quarter of a load of each row. Called with constants: not every compiler unrolls a loop, and an index that is
// none takes the word from memory.
fn products(w0: vec4<u32>, w1: vec4<u32>, w2: vec4<u32>, w3: vec4<u32>, q: u32, v: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(dot(unpack4(w0, q), v), dot(unpack4(w1, q), v), dot(unpack4(w2, q), v), dot(unpack4(w3, q), v));
}

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
    let rows = min(vec4<u32>(row0) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.rows - 1u));
    let base = rows * params.loads;
    let x0 = token * params.x_pitch;
    var sum = vec4<f32>();
    for (var load = lane; load < params.loads; load += LANES) {
        let w0 = weights[base.x + load];
        let w1 = weights[base.y + load];
        let w2 = weights[base.z + load];
        let w3 = weights[base.w + load];
        let at = x0 + load * QUARTERS;
        var part = products(w0, w1, w2, w3, 0u, x[at]);
        if (QUARTERS > 1u) {
            part += products(w0, w1, w2, w3, 1u, x[at + 1u]);
        }
        if (QUARTERS > 2u) {
            part += products(w0, w1, w2, w3, 2u, x[at + 2u]);
            part += products(w0, w1, w2, w3, 3u, x[at + 3u]);
        }
        if (BLOCKS == 1u) {
            let at = rows * params.scale_blocks + load / params.loads_per_block;
            part *= vec4<f32>(scales[at.x], scales[at.y], scales[at.z], scales[at.w]);
        }
        sum += part;
    }
    let total = totals(sum, vec4<f32>(), share_of_squares(token, lane), lane, thread);
    // A thread for each row finishes.
    let row = row0 + lane;
    var value = 0.0;
    if (lane < 4u && row < params.rows) {
        value = write_y(token, row, total.x * inverse_rms(total.z));
    }
    leave(token, row, value, thread);
}
