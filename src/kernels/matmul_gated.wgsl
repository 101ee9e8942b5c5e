// Mlp = silu(x Wg^T) * (x Wu^T) for many tokens: matmul over two matrices at once, a thread's first four rows
// from the one and its second four, the same ones, from the other, with the activation behind it.
struct Params {
    first_row: u32,        // row of Wg and Wu at which these buffers start
    rows: u32,             // rows in each
    loads: u32,            // 16-byte loads per row
    x_pitch: u32,          // vec4 between rows of x
    y_pitch: u32,          // f32 between rows of y
    scale_blocks: u32,     // scales per row; 0: none
    loads_per_block: u32,  // loads that share a scale
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;             // (T, x_pitch)
@group(0) @binding(3) var<storage, read> gate_weights: array<vec4<u32>>;  // (rows, loads)
@group(0) @binding(4) var<storage, read> gate_scales: array<f32>;         // (rows, scale_blocks)
@group(0) @binding(5) var<storage, read> up_weights: array<vec4<u32>>;    // (rows, loads)
@group(0) @binding(6) var<storage, read> up_scales: array<f32>;           // (rows, scale_blocks)
@group(0) @binding(7) var<storage, read_write> y: array<f32>;             // (T, y_pitch)

override ACROSS: u32 = 8u;  // threads along the rows
override DOWN: u32 = 8u;    // threads along the tokens
override BLOCKS: u32 = 0u;  // 1: several scales per row
const UPPER: u32 = 0u;      // rows between a thread's first and second four: they are the same

fn packed_at(upper: bool, row: u32, load: u32) -> vec4<u32> {
    if (upper) {
        return up_weights[row * params.loads + load];
    }
    return gate_weights[row * params.loads + load];
}

fn scale_at(upper: bool, row: u32, load: u32) -> f32 {
    let at = row * params.scale_blocks + load / params.loads_per_block;
    if (upper) {
        return up_scales[at];
    }
    return gate_scales[at];
}

fn write_token(tokens: u32, token: u32, row0: u32, low: vec4<f32>, high: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        let row = row0 + ACROSS * j;
        if (token < tokens && row < params.rows) {
            var gate = low[j] * UNPACK_SCALE;
            var up = high[j] * UNPACK_SCALE;
            if (BLOCKS == 0u && params.scale_blocks == 1u) {
                gate *= gate_scales[row];
                up *= up_scales[row];
            }
            // exp(85) is still finite, and WGSL may assume that nothing is infinite.
            let silu = gate / (1.0 + exp(-max(gate, -85.0)));
            y[token * params.y_pitch + params.first_row + row] = silu * up;
        }
    }
}

@compute @workgroup_size(THREADS)
fn matmul_gated(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row0 = wid.x * 4u * ACROSS;
    walk(wid.y * TOKENS, row0, batch.tokens, thread);
    write_sums(batch.tokens, wid.y * TOKENS + thread / ACROSS, DOWN, row0 + thread % ACROSS);
}
