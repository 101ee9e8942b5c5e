// F32 -> BF16, to nearest, ties to even; what is too large becomes infinity.
const EXPONENT: u32 = 0x7f80u;            // all ones in what is not finite
const LEAST_INFINITE: u32 = 0x7f7f8000u;  // f32 bits of the least magnitude that becomes infinite

// Of anything but NaN, which may come out as a number.
fn narrow_number(bits: vec4<u32>) -> vec4<u32> {
    return (bits + vec4<u32>(0x7fffu) + ((bits >> vec4<u32>(16u)) & vec4<u32>(1u))) >> vec4<u32>(16u);
}

fn narrow(bits: vec4<u32>) -> vec4<u32> {
    let nan = (bits & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    return select(narrow_number(bits), (bits >> vec4<u32>(16u)) | vec4<u32>(0x40u), nan);
}

fn store8(group: u32, first: vec4<u32>, second: vec4<u32>) {
    merged[group] = vec4<u32>(first.xz | (first.yw << vec2<u32>(16u)), second.xz | (second.yw << vec2<u32>(16u)));
}
