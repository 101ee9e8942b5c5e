// merged = c0 * a + c1 * b: each product rounded to f32, their sum rounded to f32, that rounded to
// the dtype of `merged`. One thread per eight elements.
struct Params {
    groups: u32,  // of eight elements
    part: u32,    // which counter is this buffer's
    zero: u32,    // 0, which the compiler must not know
    c0: f32,      // neither is subnormal
    c1: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;                    // (groups, 8) packed
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;                    // (groups, 8) packed
@group(0) @binding(3) var<storage, read_write> merged: array<vec4<u32>>;         // (groups, 8) packed
@group(0) @binding(4) var<storage, read_write> non_finite: array<atomic<u32>>;   // (parts)

@compute @workgroup_size(64)
fn blend(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let group = (wid.x + wid.z * grid.x) * 64u + thread;
    if (group >= params.groups) {
        return;
    }
    // Both halves of one load, or two loads of F32.
    let i = group * (3u - QUARTERS);
    let j = i + 2u - QUARTERS;
    let low = blend4(unpack4(a[i], 0u), unpack4(b[i], 0u));
    let high = blend4(unpack4(a[j], 1u), unpack4(b[j], 1u));
    let count = finish(group, low, high);
    if (count > 0u) {
        atomicAdd(&non_finite[params.part], count);
    }
}
