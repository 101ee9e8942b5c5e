// What a norm's readers take in (shared/input_scaled.wgsl), where no product left it: x * gain, and the squares
// of each four columns of x. A thread for four columns, neighbours for neighbouring ones.
struct Params {
    pitch: u32,  // vec4 between rows of x
    last: u32,   // 1: only the batch's last row, into row 0
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;             // (T, pitch)
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;        // (pitch) the norm's
@group(0) @binding(4) var<storage, read_write> gained: array<vec4<f32>>;  // (T, pitch)
@group(0) @binding(5) var<storage, read_write> squares: array<f32>;       // (T, pitch)

@compute @workgroup_size(64)
fn gain(@builtin(global_invocation_id) gid: vec3<u32>) {
    if (gid.x >= params.pitch) {
        return;
    }
    let from_row = select(gid.y, batch.tokens - 1u, params.last == 1u) * params.pitch;
    let to = gid.y * params.pitch + gid.x;
    let v = x[from_row + gid.x];  // columns beyond the width are zero
    gained[to] = v * weight[gid.x];
    squares[to] = dot(v, v);
}
