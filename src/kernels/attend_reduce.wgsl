// Joins the partial results of attend: each split's output weighs norm * exp(maximum - top).
// One thread per output element, neighbouring threads on neighbouring elements.
struct Params {
    heads: u32,
    head_dim: u32,
    out_pitch: u32,  // f32 between rows of attn_out
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> pieces: array<f32>;         // (T * heads, splits, head_dim + 2)
@group(0) @binding(3) var<storage, read_write> attn_out: array<f32>;  // (T, out_pitch)

@compute @workgroup_size(64)
fn attend_reduce(@builtin(global_invocation_id) gid: vec3<u32>) {
    let width = params.heads * params.head_dim;
    if (gid.x >= width) {
        return;
    }
    let head = gid.x / params.head_dim;
    let element = gid.x % params.head_dim;
    let pitch = params.head_dim + 2u;
    let first = (gid.y * params.heads + head) * batch.splits * pitch;
    var top = -1e30;
    for (var s = 0u; s < batch.splits; s++) {
        top = max(top, pieces[first + s * pitch + params.head_dim]);
    }
    var sum = 0.0;
    var norm = 0.0;
    for (var s = 0u; s < batch.splits; s++) {
        let at = first + s * pitch;
        let weight = pieces[at + params.head_dim + 1u] * exp(pieces[at + params.head_dim] - top);
        sum += weight * pieces[at + element];
        norm += weight;
    }
    attn_out[gid.y * params.out_pitch + gid.x] = sum / norm;
}
