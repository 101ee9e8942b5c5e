// Sums of a*a, b*b and a*b over fixed blocks of two tensors, in twice f32's precision: one workgroup
// per block, always in the same order. Neighbouring threads read neighbouring loads.
struct Params {
    loads: u32,        // 16-byte loads of a, and of b, in these buffers
    first_block: u32,  // place of their first block among the sums
    zero: u32,         // 0, which the compiler must not know
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;            // (loads)
@group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;            // (loads)
@group(0) @binding(3) var<storage, read_write> sums: array<vec4<u32>>;   // (blocks, 2)

override BLOCK_LOADS: u32 = 512u;  // loads per block

const WG: u32 = 64u;

var<workgroup> highs: array<vec4<f32>, WG>;    // a*a, b*b, a*b, 0
var<workgroup> lows: array<vec4<f32>, WG>;
var<workgroup> largest: array<vec2<u32>, WG>;  // bits of the largest |a|, |b|

// What one lane of the vectors has summed, side by side: a*a, b*b, a*b, 0.
fn lane(aa: Sum, bb: Sum, ab: Sum, i: u32) -> Sum {
    return Sum(vec4<f32>(aa.high[i], bb.high[i], ab.high[i], 0.0), vec4<f32>(aa.low[i], bb.low[i], ab.low[i], 0.0));
}

fn magnitude(v: vec4<f32>) -> vec4<u32> {
    return bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu);
}

fn top(v: vec4<u32>) -> u32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

// Thread `thread` takes over the sums of `count` threads, `stride` apart.
fn gather(thread: u32, count: u32, stride: u32) {
    var total = Sum(highs[thread], lows[thread]);
    var most = largest[thread];
    for (var i = 1u; i < count; i++) {
        let at = thread + i * stride;
        total = join(total, Sum(highs[at], lows[at]));
        most = max(most, largest[at]);
    }
    highs[thread] = total.high;
    lows[thread] = total.low;
    largest[thread] = most;
}

@compute @workgroup_size(WG)
fn slerp_sums(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let block = wid.x + wid.z * grid.x;
    // Blocks past the end are empty, and are not written.
    let begin = min(block * BLOCK_LOADS, params.loads);
    let end = min(begin + BLOCK_LOADS, params.loads);
    var aa: Sum;
    var bb: Sum;
    var ab: Sum;
    var most_a: vec4<u32>;
    var most_b: vec4<u32>;
    for (var load = begin + thread; load < end; load += WG) {
        let packed_a = a[load];
        let packed_b = b[load];
        for (var q = 0u; q < QUARTERS; q++) {
            let x = unpack4(packed_a, q);
            let y = unpack4(packed_b, q);
            aa = add_product(aa, x, x);
            bb = add_product(bb, y, y);
            ab = add_product(ab, x, y);
            most_a = max(most_a, magnitude(x));
            most_b = max(most_b, magnitude(y));
        }
    }
    let even = join(lane(aa, bb, ab, 0u), lane(aa, bb, ab, 1u));
    let odd = join(lane(aa, bb, ab, 2u), lane(aa, bb, ab, 3u));
    let total = join(even, odd);
    highs[thread] = total.high;
    lows[thread] = total.low;
    largest[thread] = vec2<u32>(top(most_a), top(most_b));
    // Two stages instead of a tree: two barriers.
    workgroupBarrier();
    if (thread < 8u) {
        gather(thread, 8u, 8u);
    }
    workgroupBarrier();
    if (thread == 0u && begin < end) {
        gather(0u, 8u, 1u);
        // The last component: the largest |a|, the largest |b|.
        let high = bitcast<vec4<u32>>(highs[0]);
        let low = bitcast<vec4<u32>>(lows[0]);
        let at = (params.first_block + block) * 2u;
        sums[at] = vec4<u32>(high.xyz, largest[0].x);
        sums[at + 1u] = vec4<u32>(low.xyz, largest[0].y);
    }
}
