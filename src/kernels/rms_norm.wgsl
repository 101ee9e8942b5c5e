// y = x / sqrt(mean(x^2) + epsilon) * weight, one workgroup per row, statistics in f32.
struct Params {
    width: u32,    // elements per row
    pitch: u32,    // vec4 between rows of x and y
    last: u32,     // 1: only the batch's last row, into row 0 of y
    epsilon: f32,
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;        // (T, pitch)
@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;   // (pitch)
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;  // (T, pitch)

override WG: u32 = 128u;
var<workgroup> sums: array<f32, WG>;
var<workgroup> inverse: f32;

@compute @workgroup_size(WG)
fn rms_norm(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let in_row = select(wid.x, batch.tokens - 1u, params.last == 1u) * params.pitch;
    let out_row = select(wid.x, 0u, params.last == 1u) * params.pitch;
    var sum = 0.0;
    for (var i = lane; i < params.pitch; i += WG) {
        let v = x[in_row + i];  // columns beyond width are zero
        sum += dot(v, v);
    }
    sums[lane] = sum;
    workgroupBarrier();
    // Two stages instead of a tree: two barriers whatever the workgroup size.
    if (lane < 8u) {
        var part = 0.0;
        for (var i = lane; i < WG; i += 8u) {
            part += sums[i];
        }
        sums[lane] = part;
    }
    workgroupBarrier();
    if (lane == 0u) {
        var total = 0.0;
        for (var i = 0u; i < 8u; i++) {
            total += sums[i];
        }
        inverse = inverseSqrt(total / f32(params.width) + params.epsilon);
    }
    workgroupBarrier();
    let scale = inverse;
    for (var i = lane; i < params.pitch; i += WG) {
        y[out_row + i] = x[in_row + i] * scale * weight[i];
    }
}
