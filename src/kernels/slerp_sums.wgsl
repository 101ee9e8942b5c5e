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
const TILE: u32 = 4u * WG;  // loads that a workgroup takes together, four a thread

var<workgroup> highs: array<vec4<f32>, WG>;    // a*a, b*b, a*b, 0
var<workgroup> lows: array<vec4<f32>, WG>;
var<workgroup> largest: array<vec2<u32>, WG>;  // bits of the largest |a|, |b|

struct Sums {
    aa: Sum,
    bb: Sum,
    ab: Sum,
}

struct Part {
    sum: Sum,  // a*a, b*b, a*b, 0
    most: vec2<u32>,
}

fn add_four(s: Sums, x: vec4<f32>, y: vec4<f32>) -> Sums {
    return Sums(add_product(s.aa, x, x), add_product(s.bb, y, y), add_product(s.ab, x, y));
}

fn add_load(s: Sums, x: vec4<u32>, y: vec4<u32>) -> Sums {
    let first = add_four(s, unpack4(x, 0u), unpack4(y, 0u));
    if (QUARTERS == 1u) {
        return first;
    }
    return add_four(first, unpack4(x, 1u), unpack4(y, 1u));
}

fn magnitude(load: vec4<u32>) -> vec4<u32> {
    let ones = vec4<u32>(0x7fffffffu);
    let first = bitcast<vec4<u32>>(unpack4(load, 0u)) & ones;
    return max(first, bitcast<vec4<u32>>(unpack4(load, 1u)) & ones);
}

fn top(v: vec4<u32>) -> u32 {
    return max(max(v.x, v.y), max(v.z, v.w));
}

fn across(v: vec4<f32>) -> f32 {
    return (v.x + v.y) + (v.z + v.w);
}

fn load_a(i: u32, end: u32) -> vec4<u32> {
    return select(vec4<u32>(0u), a[min(i, end - 1u)], i < end);
}

fn load_b(i: u32, end: u32) -> vec4<u32> {
    return select(vec4<u32>(0u), b[min(i, end - 1u)], i < end);
}

// Four loads of a thread. With Q a power of two above all their products, squares are added to 16 Q and the
// others to 24 Q. Eight fours of products leave that between 16 Q and 32 Q: always above what is added to it,
// and with one and the same last place, so that less what they began with all four are added without rounding.
fn part(first: u32, end: u32) -> Part {
    let x0 = load_a(first, end);
    let x1 = load_a(first + WG, end);
    let x2 = load_a(first + 2u * WG, end);
    let x3 = load_a(first + 3u * WG, end);
    let y0 = load_b(first, end);
    let y1 = load_b(first + WG, end);
    let y2 = load_b(first + 2u * WG, end);
    let y3 = load_b(first + 3u * WG, end);
    let most_a = max(max(magnitude(x0), magnitude(x1)), max(magnitude(x2), magnitude(x3)));
    let most_b = max(max(magnitude(y0), magnitude(y1)), max(magnitude(y2), magnitude(y3)));
    let most = vec2<u32>(top(most_a), top(most_b));
    // Exponents of a and b, as far as Q has one; beyond, the host refuses the sums or they do not count.
    let e = clamp(most >> vec2<u32>(23u), vec2<u32>(77u), vec2<u32>(183u));
    let begin = bitcast<vec3<f32>>(((vec3<u32>(e.x, e.y, e.x) + vec3<u32>(e.x, e.y, e.y) - vec3<u32>(121u)) << vec3<u32>(23u))
        | vec3<u32>(0u, 0u, 0x400000u));
    let none = vec4<f32>(0.0);
    let none_yet = Sums(Sum(vec4<f32>(begin.x), none), Sum(vec4<f32>(begin.y), none), Sum(vec4<f32>(begin.z), none));
    let s = add_load(add_load(add_load(add_load(none_yet, x0, y0), x1, y1), x2, y2), x3, y3);
    let high = vec4<f32>(across(s.aa.high - begin.x), across(s.bb.high - begin.y), across(s.ab.high - begin.z), 0.0);
    return Part(Sum(high, vec4<f32>(across(s.aa.low), across(s.bb.low), across(s.ab.low), 0.0)), most);
}

fn both(x: Part, y: Part) -> Part {
    return Part(join(x.sum, y.sum), max(x.most, y.most));
}

fn keep(thread: u32, kept: Part) {
    highs[thread] = kept.sum.high;
    lows[thread] = kept.sum.low;
    largest[thread] = kept.most;
}

// Thread `thread` takes over the sums of eight threads, `stride` apart.
fn gather(thread: u32, stride: u32) -> Part {
    var total = Part(Sum(highs[thread], lows[thread]), largest[thread]);
    for (var i = 1u; i < 8u; i++) {
        let next = thread + i * stride;
        total = both(total, Part(Sum(highs[next], lows[next]), largest[next]));
    }
    return total;
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
    let first = begin + thread;
    // Not a loop, which would keep all of it in memory on some adapters.
    var total = both(part(first, end), part(first + TILE, end));
    if (BLOCK_LOADS > 2u * TILE) {
        total = both(total, both(part(first + 2u * TILE, end), part(first + 3u * TILE, end)));
    }
    keep(thread, total);
    // Two stages instead of a tree: two barriers.
    workgroupBarrier();
    if (thread < 8u) {
        keep(thread, gather(thread, 8u));
    }
    workgroupBarrier();
    if (thread == 0u && begin < end) {
        total = gather(0u, 1u);
        // The last component: the largest |a|, the largest |b|.
        let at = (params.first_block + block) * 2u;
        sums[at] = vec4<u32>(bitcast<vec4<u32>>(total.sum.high).xyz, total.most.x);
        sums[at + 1u] = vec4<u32>(bitcast<vec4<u32>>(total.sum.low).xyz, total.most.y);
    }
}
