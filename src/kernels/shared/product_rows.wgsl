// The rate of a plain f32 product, y = x w^T, without workgroup memory: 8 rows by 8 tokens a thread. For the
// bench: what the model's kernels are compared with owes nothing to them. Sizes are whole tiles.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;        // (tokens, DEPTH)
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;        // (rows, DEPTH)
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;  // (tokens, rows / 4)

override DEPTH: u32 = 128u;  // vec4 of columns
override ROWS: u32 = 512u;
override WG: u32 = 8u;

fn four(at: u32, k: u32, step: u32) -> mat4x4<f32> {
    return mat4x4<f32>(w[at + k], w[at + step + k], w[at + 2u * step + k], w[at + 3u * step + k]);
}

@compute @workgroup_size(WG)
fn product_rows(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let row = (wid.x * WG + thread) * 8u;
    let token = wid.y * 8u;
    var a0 = vec4<f32>(); var a1 = vec4<f32>(); var a2 = vec4<f32>(); var a3 = vec4<f32>();
    var a4 = vec4<f32>(); var a5 = vec4<f32>(); var a6 = vec4<f32>(); var a7 = vec4<f32>();
    var b0 = vec4<f32>(); var b1 = vec4<f32>(); var b2 = vec4<f32>(); var b3 = vec4<f32>();
    var b4 = vec4<f32>(); var b5 = vec4<f32>(); var b6 = vec4<f32>(); var b7 = vec4<f32>();
    for (var k = 0u; k < DEPTH; k++) {
        let a = four(row * DEPTH, k, DEPTH);
        let b = four((row + 4u) * DEPTH, k, DEPTH);
        let at = token * DEPTH + k;
        let v0 = x[at]; let v1 = x[at + DEPTH]; let v2 = x[at + 2u * DEPTH]; let v3 = x[at + 3u * DEPTH];
        let v4 = x[at + 4u * DEPTH]; let v5 = x[at + 5u * DEPTH]; let v6 = x[at + 6u * DEPTH]; let v7 = x[at + 7u * DEPTH];
        a0 += v0 * a; a1 += v1 * a; a2 += v2 * a; a3 += v3 * a;
        a4 += v4 * a; a5 += v5 * a; a6 += v6 * a; a7 += v7 * a;
        b0 += v0 * b; b1 += v1 * b; b2 += v2 * b; b3 += v3 * b;
        b4 += v4 * b; b5 += v5 * b; b6 += v6 * b; b7 += v7 * b;
    }
    let pitch = ROWS / 4u;
    let out = token * pitch + row / 4u;
    y[out] = a0; y[out + pitch] = a1; y[out + 2u * pitch] = a2; y[out + 3u * pitch] = a3;
    y[out + 4u * pitch] = a4; y[out + 5u * pitch] = a5; y[out + 6u * pitch] = a6; y[out + 7u * pitch] = a7;
    y[out + 1u] = b0; y[out + pitch + 1u] = b1; y[out + 2u * pitch + 1u] = b2; y[out + 3u * pitch + 1u] = b3;
    y[out + 4u * pitch + 1u] = b4; y[out + 5u * pitch + 1u] = b5; y[out + 6u * pitch + 1u] = b6; y[out + 7u * pitch + 1u] = b7;
}
