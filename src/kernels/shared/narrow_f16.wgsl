// F32 -> F16, to nearest, ties to even, subnormals included; what is too large becomes infinity.
const EXPONENT: u32 = 0x7c00u;            // all ones in what is not finite
const LEAST_INFINITE: u32 = 0x477ff000u;  // f32 bits of the least magnitude that becomes infinite: 65520

// Of anything but NaN, which may come out as a number.
fn narrow_number(bits: vec4<u32>) -> vec4<u32> {
    let magnitude = bits & vec4<u32>(0x7fffffffu);
    // 2^-14 and more: rebias the exponent from 127 to 15.
    let odd = (magnitude >> vec4<u32>(13u)) & vec4<u32>(1u);
    let rebased = (magnitude - vec4<u32>(0x38000000u) + vec4<u32>(0xfffu) + odd) >> vec4<u32>(13u);
    let normal = min(rebased, vec4<u32>(0x7c00u));
    // Less: how often 2^-24 goes into it.
    let mantissa = (magnitude & vec4<u32>(0x7fffffu)) | vec4<u32>(0x800000u);
    let shift = clamp(vec4<u32>(126u) - min(magnitude >> vec4<u32>(23u), vec4<u32>(112u)), vec4<u32>(14u), vec4<u32>(25u));
    let half = vec4<u32>(1u) << (shift - vec4<u32>(1u));
    let last = (mantissa >> shift) & vec4<u32>(1u);
    let subnormal = (mantissa + half - vec4<u32>(1u) + last) >> shift;
    let finite = select(normal, subnormal, magnitude < vec4<u32>(0x38800000u));
    return finite | ((bits >> vec4<u32>(16u)) & vec4<u32>(0x8000u));
}

fn narrow(bits: vec4<u32>) -> vec4<u32> {
    let nan = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    return select(narrow_number(bits), ((bits >> vec4<u32>(16u)) & vec4<u32>(0x8000u)) | vec4<u32>(0x7e00u), nan);
}

fn store8(group: u32, first: vec4<u32>, second: vec4<u32>) {
    merged[group] = vec4<u32>(first.xz | (first.yw << vec2<u32>(16u)), second.xz | (second.yw << vec2<u32>(16u)));
}
