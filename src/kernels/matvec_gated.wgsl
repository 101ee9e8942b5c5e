// Mlp = silu(n Wg^T) * (n Wu^T), n = x / sqrt(mean(x^2) + EPSILON), for few tokens: matvec over two
// matrices at once, ROWS rows of each per group of LANES threads, with the norm in front of it (but for its gain,
// which x has) and the activation behind. Two rows of each on a GPU, as many loads in flight as in matvec. Four
// where x costs as much as weights: on adapters that compute on the CPU, which read it value by value.
struct Params {
    first_row: u32,        // row of Wg and Wu at which these buffers start
    rows: u32,             // rows in each
    loads: u32,            // 16-byte loads per row
    x_pitch: u32,          // vec4 between rows of x
    y_pitch: u32,          // f32 between rows of y
    scale_blocks: u32,     // scales per row; 0: none
    loads_per_block: u32,  // loads that share a scale
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;             // (T, x_pitch)
@group(0) @binding(2) var<storage, read> gate_weights: array<vec4<u32>>;  // (rows, loads)
@group(0) @binding(3) var<storage, read> gate_scales: array<f32>;         // (rows, scale_blocks)
@group(0) @binding(4) var<storage, read> up_weights: array<vec4<u32>>;    // (rows, loads)
@group(0) @binding(5) var<storage, read> up_scales: array<f32>;           // (rows, scale_blocks)
@group(0) @binding(7) var<storage, read_write> y: array<f32>;             // (T, y_pitch); 6: squares

override WG: u32 = 64u;
override ROWS: u32 = 2u;    // or 4
override LANES: u32 = 32u;  // threads per ROWS rows; divides WG; 4, 8 or a multiple of 8
override BLOCKS: u32 = 0u;  // 1: several scales per row

const PAIR: u32 = 1u;  // two matrices

// Of a quarter of a load of each row; as in matvec.
fn products(w0: vec4<u32>, w1: vec4<u32>, w2: vec4<u32>, w3: vec4<u32>, q: u32, v: vec4<f32>) -> vec4<f32> {
    var rest = vec2<f32>();
    if (ROWS == 4u) {
        rest = vec2<f32>(dot(unpack4(w2, q), v), dot(unpack4(w3, q), v));
    }
    return vec4<f32>(dot(unpack4(w0, q), v), dot(unpack4(w1, q), v), rest);
}

@compute @workgroup_size(WG)
fn matvec_gated(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = wid.y;
    let lane = thread % LANES;
    let row0 = ((wid.x + wid.z * grid.x) * (WG / LANES) + thread / LANES) * ROWS;
    // Rows past the end read the last row and are not written.
    let rows = min(vec4<u32>(row0) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.rows - 1u));
    let base = rows * params.loads;
    let x0 = token * params.x_pitch;
    var gates = vec4<f32>();
    var ups = vec4<f32>();
    for (var load = lane; load < params.loads; load += LANES) {
        let g0 = gate_weights[base.x + load];
        let g1 = gate_weights[base.y + load];
        let u0 = up_weights[base.x + load];
        let u1 = up_weights[base.y + load];
        var g2 = vec4<u32>();
        var g3 = vec4<u32>();
        var u2 = vec4<u32>();
        var u3 = vec4<u32>();
        if (ROWS == 4u) {
            g2 = gate_weights[base.z + load];
            g3 = gate_weights[base.w + load];
            u2 = up_weights[base.z + load];
            u3 = up_weights[base.w + load];
        }
        let at = x0 + load * QUARTERS;
        let v = x[at];
        var gate = products(g0, g1, g2, g3, 0u, v);
        var up = products(u0, u1, u2, u3, 0u, v);
        if (QUARTERS > 1u) {
            let v1 = x[at + 1u];
            gate += products(g0, g1, g2, g3, 1u, v1);
            up += products(u0, u1, u2, u3, 1u, v1);
        }
        if (QUARTERS > 2u) {
            let v2 = x[at + 2u];
            gate += products(g0, g1, g2, g3, 2u, v2);
            up += products(u0, u1, u2, u3, 2u, v2);
            let v3 = x[at + 3u];
            gate += products(g0, g1, g2, g3, 3u, v3);
            up += products(u0, u1, u2, u3, 3u, v3);
        }
        if (BLOCKS == 1u) {
            let at = rows * params.scale_blocks + load / params.loads_per_block;
            gate *= vec4<f32>(gate_scales[at.x], gate_scales[at.y], gate_scales[at.z], gate_scales[at.w]);
            up *= vec4<f32>(up_scales[at.x], up_scales[at.y], up_scales[at.z], up_scales[at.w]);
        }
        gates += gate;
        ups += up;
    }
    let total = totals(gates, ups, share_of_squares(token, lane), lane, thread);
    let row = row0 + lane;
    if (lane < ROWS && row < params.rows) {
        let scale = UNPACK_SCALE * inverse_rms(total.z);
        var gate = total.x * scale;
        var up = total.y * scale;
        if (BLOCKS == 0u && params.scale_blocks == 1u) {
            gate *= gate_scales[row];
            up *= up_scales[row];
        }
        // exp(85) is still finite, and WGSL may assume that nothing is infinite.
        let silu = gate / (1.0 + exp(-max(gate, -85.0)));
        y[token * params.y_pitch + params.first_row + row] = silu * up;
    }
}
