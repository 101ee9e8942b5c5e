// F32: stays what it is.
const EXPONENT: u32 = 0x7f800000u;        // all ones in what is not finite
const LEAST_INFINITE: u32 = 0x7f800000u;  // bits of the least magnitude that is infinite

fn narrow_number(bits: vec4<u32>) -> vec4<u32> {
    return bits;
}

fn narrow(bits: vec4<u32>) -> vec4<u32> {
    return bits;
}

fn store8(group: u32, first: vec4<u32>, second: vec4<u32>) {
    merged[group * 2u] = first;
    merged[group * 2u + 1u] = second;
}
