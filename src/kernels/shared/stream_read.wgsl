// The fastest way in which this adapter reads memory: neighbouring threads take neighbouring 16 bytes, 16 of
// them in flight for each. For the bench.
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> sums: array<u32>;

override WG: u32 = 256u;

@compute @workgroup_size(WG)
fn stream_read(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let base = wid.x * WG * 16u + thread;
    var sum = vec4<u32>();
    for (var i = 0u; i < 16u; i++) {
        sum ^= data[base + i * WG];
    }
    // Never true of this data, but the compiler cannot know.
    if ((sum.x | sum.y | sum.z | sum.w) == 0x9e3779b9u) {
        sums[thread] = sum.x;
    }
}
