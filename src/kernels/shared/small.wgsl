// c * v + d * w where the products are below 2^-59, in integers as far as an adapter may flush
// subnormals: every adapter gets IEEE 754's bits.

// Mantissa and exponent of f32 bits: the value is x * 2^(y - 150).
fn parts(bits: u32) -> vec2<u32> {
    let magnitude = bits & 0x7fffffffu;
    return vec2<u32>((magnitude & 0x7fffffu) | select(0u, 0x800000u, magnitude >= 0x800000u), max(magnitude >> 23u, 1u));
}

// Bits of c * v, rounded once.
fn small_product(c: u32, v: u32) -> u32 {
    let sign = (c ^ v) & 0x80000000u;
    let p = parts(c);
    let q = parts(v);
    // The product of the mantissas, high * 2^24 + low.
    let c1 = p.x >> 12u;
    let c0 = p.x & 0xfffu;
    let v1 = q.x >> 12u;
    let v0 = q.x & 0xfffu;
    let middle = c1 * v0 + c0 * v1;
    let sum = c0 * v0 + ((middle & 0xfffu) << 12u);
    let high = c1 * v1 + (middle >> 12u) + (sum >> 24u);
    let low = sum & 0xffffffu;
    // Bits below the last place: of the smallest subnormal, 2^-149, or of 24 significant bits.
    let below_smallest = 151 - i32(p.y + q.y);
    let length = select(32 - i32(countLeadingZeros(low)), 56 - i32(countLeadingZeros(high)), high > 0u);
    let drop = max(below_smallest, length - 24);
    if (drop > 48 || (high | low) == 0u) {
        return sign;  // less than half of 2^-149
    }
    var rounded = low | (high << 24u);
    if (drop > 0) {
        // All but one of them go; that one and what it leaves behind decide.
        let n = u32(drop - 1);
        var twice = high >> (max(n, 24u) - 24u);
        var rest = low | (high & ((1u << (max(n, 24u) - 24u)) - 1u));
        if (n < 24u) {
            twice = (high << (24u - n)) | (low >> n);
            rest = low & ((1u << n) - 1u);
        }
        rounded = twice >> 1u;
        rounded += twice & 1u & ((rounded & 1u) | select(0u, 1u, rest != 0u));
    }
    // A carry out of 24 bits lands in the exponent, where it belongs.
    return sign | ((u32(drop - below_smallest) << 23u) + rounded);
}

// The value times 2^96: nothing below 2^-59 is subnormal then.
fn enlarged(bits: u32) -> f32 {
    let magnitude = bits & 0x7fffffffu;
    let value = select(bitcast<f32>(magnitude + (96u << 23u)), f32(magnitude) * 1.1102230246251565e-16, magnitude < 0x800000u);
    return select(value, -value, bits != magnitude);
}

fn small_sum(p: u32, q: u32) -> u32 {
    let sum = enlarged(p) + enlarged(q);
    let magnitude = bitcast<u32>(abs(sum));
    let bits = select(magnitude - (96u << 23u), u32(abs(sum) * 9007199254740992.0), abs(sum) < 9.313225746154785e-10);
    return select(bits, bits | 0x80000000u, sum < 0.0);
}
