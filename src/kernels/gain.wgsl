// What a norm's readers take in (shared/input_scaled.wgsl), where no product left it: x * gain, and the squares
// of SPAN columns of x each. A thread for 16 columns, whose loads and stores lie side by side.
struct Params {
    pitch: u32,  // vec4 between rows of x
    last: u32,   // 1: only the batch's last row, into row 0
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;             // (T, pitch)
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;        // (pitch) the norm's
@group(0) @binding(4) var<storage, read_write> gained: array<vec4<f32>>;  // (T, pitch)
@group(0) @binding(5) var<storage, read_write> squares: array<f32>;       // (T, 4 * ceil(pitch / SPAN))

override SPAN: u32 = 4u;  // 4, 8 or 16

@compute @workgroup_size(64)
fn gain(@builtin(global_invocation_id) gid: vec3<u32>) {
    let first = gid.x * 4u;
    if (first >= params.pitch) {
        return;
    }
    let from_row = select(gid.y, batch.tokens - 1u, params.last == 1u) * params.pitch;
    let to_row = gid.y * params.pitch;
    let to_square = gid.y * ((params.pitch + SPAN - 1u) / SPAN * 4u);
    var square = 0.0;
    for (var i = 0u; i < 4u; i++) {
        let v = x[from_row + first + i];  // columns beyond the width are zero
        gained[to_row + first + i] = v * weight[first + i];
        square += dot(v, v);
        if ((i + 1u) % (SPAN / 4u) == 0u) {
            squares[to_square + (first + i) / (SPAN / 4u)] = square;
            square = 0.0;
        }
    }
}
