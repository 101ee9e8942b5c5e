// F32 -> BF16, to nearest, ties to even; what is too large becomes infinity.
const EXPONENT: u32 = 0x7f80u;  // all ones in what is not finite

fn narrow(bits: vec4<u32>) -> vec4<u32> {
    let upper = bits >> vec4<u32>(16u);
    let rounded = (bits + vec4<u32>(0x7fffu) + (upper & vec4<u32>(1u))) >> vec4<u32>(16u);
    let nan = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    return select(rounded, upper | vec4<u32>(0x40u), nan);
}

fn store8(group: u32, first: vec4<u32>, second: vec4<u32>) {
    merged[group] = vec4<u32>(first.xz | (first.yw << vec2<u32>(16u)), second.xz | (second.yw << vec2<u32>(16u)));
}
