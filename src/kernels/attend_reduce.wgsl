// Joins the partial results of attend: each split's output weighs norm * exp(maximum - top).
// One thread for two elements of the output, neighbouring threads on neighbouring ones.
struct Params {
    heads: u32,
    head_dim: u32,
    out_pitch: u32,  // f32 between rows of attn_out
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> pieces: array<vec2<f32>>;         // (T * heads, splits, head_dim / 2 + 1)
@group(0) @binding(3) var<storage, read_write> attn_out: array<vec2<f32>>;  // (T, out_pitch / 2)

@compute @workgroup_size(64)
fn attend_reduce(@builtin(global_invocation_id) gid: vec3<u32>) {
    let pairs = params.head_dim / 2u;
    if (gid.x >= params.heads * pairs) {
        return;
    }
    let head = gid.x / pairs;
    var at = (gid.y * params.heads + head) * batch.splits * (pairs + 1u);
    var top = -1e30;
    var sum = vec2<f32>();
    var norm = 0.0;
    for (var s = 0u; s < batch.splits; s++) {
        let piece = pieces[at + gid.x % pairs];
        let end = pieces[at + pairs];  // its maximum and its norm
        at += pairs + 1u;
        let before = top;
        top = max(top, end.x);
        let fade = exp(before - top);  // factor on what earlier splits gave
        let weight = end.y * exp(end.x - top);
        sum = sum * fade + weight * piece;
        norm = norm * fade + weight;
    }
    attn_out[gid.y * (params.out_pitch / 2u) + gid.x] = sum / norm;
}
