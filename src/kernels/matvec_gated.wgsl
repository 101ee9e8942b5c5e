// Mlp = silu(n Wg^T) * (n Wu^T), n = x * gain / sqrt(mean(x^2) + EPSILON), for few tokens: matvec over two
// matrices at once, two rows of each per group of LANES threads, with the norm in front of it and the
// activation behind.
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
@group(0) @binding(6) var<storage, read_write> y: array<f32>;             // (T, y_pitch)
@group(0) @binding(7) var<storage, read> gain: array<vec4<f32>>;          // (x_pitch) the norm's weight

override WG: u32 = 64u;
override LANES: u32 = 32u;  // threads per two rows; divides WG, a multiple of 8
override BLOCKS: u32 = 0u;  // 1: several scales per row
override WIDTH: f32 = 1.0;     // elements of x
override EPSILON: f32 = 1e-5;  // added to their mean square

var<workgroup> sums: array<vec4<f32>, WG>;
var<workgroup> squares: array<f32, WG>;

@compute @workgroup_size(WG)
fn matvec_gated(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let token = wid.y;
    let lane = thread % LANES;
    let row0 = ((wid.x + wid.z * grid.x) * (WG / LANES) + thread / LANES) * 2u;
    // Rows past the end read the last row and are not written.
    let rows = min(vec2<u32>(row0, row0 + 1u), vec2<u32>(params.rows - 1u));
    let base = rows * params.loads;
    let x0 = token * params.x_pitch;
    var sum = vec4<f32>();  // gate, gate, up, up
    var square = 0.0;
    for (var load = lane; load < params.loads; load += LANES) {
        let g0 = gate_weights[base.x + load];
        let g1 = gate_weights[base.y + load];
        let u0 = up_weights[base.x + load];
        let u1 = up_weights[base.y + load];
        var part = vec4<f32>();
        for (var q = 0u; q < QUARTERS; q++) {
            let column = load * QUARTERS + q;
            let plain = x[x0 + column];
            square += dot(plain, plain);  // columns beyond the width are zero
            let v = plain * gain[column];
            part += vec4<f32>(dot(unpack4(g0, q), v), dot(unpack4(g1, q), v), dot(unpack4(u0, q), v), dot(unpack4(u1, q), v));
        }
        if (BLOCKS == 1u) {
            let at = rows * params.scale_blocks + load / params.loads_per_block;
            part *= vec4<f32>(gate_scales[at.x], gate_scales[at.y], up_scales[at.x], up_scales[at.y]);
        }
        sum += part;
    }
    sums[thread] = sum;
    squares[thread] = square;
    workgroupBarrier();
    if (lane < 8u) {
        var part = vec4<f32>();
        var partial = 0.0;
        for (var i = lane; i < LANES; i += 8u) {
            part += sums[thread - lane + i];
            partial += squares[thread - lane + i];
        }
        sums[thread] = part;
        squares[thread] = partial;
    }
    workgroupBarrier();
    let row = row0 + lane;
    if (lane < 2u && row < params.rows) {
        var gate = 0.0;
        var up = 0.0;
        var all = 0.0;
        for (var i = 0u; i < 8u; i++) {
            gate += sums[thread - lane + i][lane];
            up += sums[thread - lane + i][lane + 2u];
            all += squares[thread - lane + i];
        }
        let scale = UNPACK_SCALE * inverseSqrt(all / WIDTH + EPSILON);
        gate *= scale;
        up *= scale;
        if (BLOCKS == 0u && params.scale_blocks == 1u) {
            gate *= gate_scales[row];
            up *= up_scales[row];
        }
        // exp(85) is still finite, and WGSL may assume that nothing is infinite.
        let silu = gate / (1.0 + exp(-max(gate, -85.0)));
        y[token * params.y_pitch + params.first_row + row] = silu * up;
    }
}
