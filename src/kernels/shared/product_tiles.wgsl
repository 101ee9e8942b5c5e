// The rate of a plain f32 product, y = x w^T, by outer products of tiles in workgroup memory: 64 rows by 64
// tokens a workgroup of 8 x 8 threads, 8 by 8 a thread, 16 columns at a time, one below the other. For the
// bench: what the model's kernels are compared with owes nothing to them. Sizes are whole tiles.
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;        // (tokens, DEPTH)
@group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;        // (rows, DEPTH)
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;  // (tokens, rows / 4)

override DEPTH: u32 = 128u;  // vec4 of columns
override ROWS: u32 = 512u;

var<workgroup> x_tile: array<f32, 16 * 68>;        // (column, token), some room against bank conflicts
var<workgroup> w_tile: array<vec4<f32>, 16 * 17>;  // (column, rows / 4)
var<workgroup> staged: array<f32, 16 * 68>;

@compute @workgroup_size(64)
fn product_tiles(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tx = thread % 8u;
    let ty = thread / 8u;
    var a0 = vec4<f32>(); var a1 = vec4<f32>(); var a2 = vec4<f32>(); var a3 = vec4<f32>();
    var a4 = vec4<f32>(); var a5 = vec4<f32>(); var a6 = vec4<f32>(); var a7 = vec4<f32>();
    var b0 = vec4<f32>(); var b1 = vec4<f32>(); var b2 = vec4<f32>(); var b3 = vec4<f32>();
    var b4 = vec4<f32>(); var b5 = vec4<f32>(); var b6 = vec4<f32>(); var b7 = vec4<f32>();
    for (var k = 0u; k < DEPTH; k += 4u) {
        for (var i = thread; i < 256u; i += 64u) {
            let r = i / 4u;
            let c = i % 4u;
            let from_x = x[(wid.y * 64u + r) * DEPTH + k + c];
            let from_w = w[(wid.x * 64u + r) * DEPTH + k + c];
            for (var e = 0u; e < 4u; e++) {
                x_tile[(c * 4u + e) * 68u + r] = from_x[e];
                staged[(c * 4u + e) * 68u + r] = from_w[e];
            }
        }
        workgroupBarrier();
        for (var i = thread; i < 256u; i += 64u) {
            let at = (i / 16u) * 68u + (i % 16u) * 4u;
            w_tile[(i / 16u) * 17u + i % 16u] = vec4<f32>(staged[at], staged[at + 1u], staged[at + 2u], staged[at + 3u]);
        }
        workgroupBarrier();
        for (var c = 0u; c < 16u; c++) {
            let a = w_tile[c * 17u + tx];
            let b = w_tile[c * 17u + tx + 8u];
            let at = c * 68u + ty * 8u;
            let v0 = x_tile[at]; let v1 = x_tile[at + 1u]; let v2 = x_tile[at + 2u]; let v3 = x_tile[at + 3u];
            let v4 = x_tile[at + 4u]; let v5 = x_tile[at + 5u]; let v6 = x_tile[at + 6u]; let v7 = x_tile[at + 7u];
            a0 += v0 * a; a1 += v1 * a; a2 += v2 * a; a3 += v3 * a;
            a4 += v4 * a; a5 += v5 * a; a6 += v6 * a; a7 += v7 * a;
            b0 += v0 * b; b1 += v1 * b; b2 += v2 * b; b3 += v3 * b;
            b4 += v4 * b; b5 += v5 * b; b6 += v6 * b; b7 += v7 * b;
        }
        workgroupBarrier();
    }
    let pitch = ROWS / 4u;
    let out = (wid.y * 64u + ty * 8u) * pitch + wid.x * 16u + tx;
    y[out] = a0; y[out + pitch] = a1; y[out + 2u * pitch] = a2; y[out + 3u * pitch] = a3;
    y[out + 4u * pitch] = a4; y[out + 5u * pitch] = a5; y[out + 6u * pitch] = a6; y[out + 7u * pitch] = a7;
    y[out + 8u] = b0; y[out + pitch + 8u] = b1; y[out + 2u * pitch + 8u] = b2; y[out + 3u * pitch + 8u] = b3;
    y[out + 4u * pitch + 8u] = b4; y[out + 5u * pitch + 8u] = b5; y[out + 6u * pitch + 8u] = b6; y[out + 7u * pitch + 8u] = b7;
}
