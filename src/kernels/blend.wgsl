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

const SMALL: f32 = 8.673617379884035e-19;  // 2^-60

// The f32 bits of four elements.
fn blend4(at: u32) -> vec4<u32> {
    let x = unpack4(a[at / QUARTERS], at % QUARTERS);
    let y = unpack4(b[at / QUARTERS], at % QUARTERS);
    // Opaque: a sum that is contracted with a product rounds once where it must round twice.
    let p = opaque4(params.c0 * x, params.zero);
    let q = opaque4(params.c1 * y, params.zero);
    var sum = bitcast<vec4<u32>>(p + q);
    let x_bits = bitcast<vec4<u32>>(x);
    let y_bits = bitcast<vec4<u32>>(y);
    let zeros = ((x_bits | y_bits) & vec4<u32>(0x7fffffffu)) == vec4<u32>(0u);
    let small = (max(abs(p), abs(q)) < vec4<f32>(SMALL)) & !zeros;
    let c0 = bitcast<u32>(params.c0);
    let c1 = bitcast<u32>(params.c1);
    if (any(small)) {
        for (var i = 0u; i < 4u; i++) {
            if (small[i]) {
                sum[i] = small_sum(small_product(c0, x_bits[i]), small_product(c1, y_bits[i]));
            }
        }
    }
    // A zero is negative only as the sum of two negative zeros, whatever the adapter makes of signs.
    let sign = (x_bits ^ vec4<u32>(c0)) & (y_bits ^ vec4<u32>(c1)) & vec4<u32>(0x80000000u);
    return select(sum, sign, (sum & vec4<u32>(0x7fffffffu)) == vec4<u32>(0u));
}

fn not_finite(codes: vec4<u32>) -> u32 {
    let ones = vec4<u32>(EXPONENT);
    return dot(select(vec4<u32>(0u), vec4<u32>(1u), (codes & ones) == ones), vec4<u32>(1u));
}

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
    let first = narrow(blend4(group * 2u));
    let second = narrow(blend4(group * 2u + 1u));
    store8(group, first, second);
    let count = not_finite(first) + not_finite(second);
    if (count > 0u) {
        atomicAdd(&non_finite[params.part], count);
    }
}
