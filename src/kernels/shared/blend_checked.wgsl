// A blend on any adapter: what is tiny, which adapters may flush, is computed in integers or counted.

// Whether what is tiny is computed. If not, it is counted as what is not finite is: the code for it takes a third
// of the time on adapters that compute on the CPU, which do not jump over it, and registers elsewhere.
override TINY: bool = true;

const SMALL: f32 = 8.673617379884035e-19;  // 2^-60

struct Four {
    bits: vec4<u32>,   // of four elements in f32
    left: vec4<bool>,  // which are tiny, and were not computed
}

fn blend4(x: vec4<f32>, y: vec4<f32>) -> Four {
    // Opaque: a sum that is contracted with a product rounds once where it must round twice.
    let p = opaque4(params.c0 * x, params.zero);
    let q = opaque4(params.c1 * y, params.zero);
    var sum = bitcast<vec4<u32>>(p + q);
    var x_bits = bitcast<vec4<u32>>(x);
    var y_bits = bitcast<vec4<u32>>(y);
    let zeros = ((x_bits | y_bits) & vec4<u32>(0x7fffffffu)) == vec4<u32>(0u);
    var small = (max(abs(p), abs(q)) < vec4<f32>(SMALL)) & !zeros;
    let left = small & vec4<bool>(!TINY);
    let c0 = bitcast<u32>(params.c0);
    let c1 = bitcast<u32>(params.c1);
    // A zero is negative only as the sum of two negative zeros, whatever the adapter makes of signs.
    let sign = (x_bits ^ vec4<u32>(c0)) & (y_bits ^ vec4<u32>(c1)) & vec4<u32>(0x80000000u);
    if (TINY && any(small)) {
        // Each in turn is the first: an index that is not constant would keep all of them in memory.
        for (var i = 0u; i < 4u; i++) {
            var first = sum.x;
            if (small.x) {
                first = small_sum(small_product(c0, x_bits.x), small_product(c1, y_bits.x));
            }
            sum = vec4<u32>(sum.yzw, first);
            x_bits = x_bits.yzwx;
            y_bits = y_bits.yzwx;
            small = small.yzwx;
        }
    }
    return Four(select(sum, sign, (sum & vec4<u32>(0x7fffffffu)) == vec4<u32>(0u)), left);
}

fn flagged(codes: vec4<u32>, left: vec4<bool>) -> u32 {
    let ones = vec4<u32>(EXPONENT);
    return dot(select(vec4<u32>(0u), vec4<u32>(1u), ((codes & ones) == ones) | left), vec4<u32>(1u));
}

fn finish(group: u32, low: Four, high: Four) -> u32 {
    let first = narrow(low.bits);
    let second = narrow(high.bits);
    store8(group, first, second);
    return flagged(first, low.left) + flagged(second, high.left);
}
