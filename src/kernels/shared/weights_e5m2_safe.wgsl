// F8_E5M2: 16 weights to a 16-byte load, in integer arithmetic: exact for every finite code.
const QUARTERS: u32 = 4u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 1.0;   // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    let upper = vec4<u32>(load[quarter]) << vec4<u32>(24u, 16u, 8u, 0u);
    let bits = (upper >> vec4<u32>(3u)) & vec4<u32>(0x0fe00000u);
    // The exponent's bias, from 15 to 127. Below 2^-14 there is no leading one: taken away again, from twice as
    // much, it leaves less than the first, elsewhere as much or more.
    let normal = bitcast<vec4<f32>>(bits + vec4<u32>(0x38000000u));
    let subnormal = bitcast<vec4<f32>>(bits + vec4<u32>(0x38800000u)) - vec4<f32>(6.103515625e-5);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(min(normal, subnormal)) | (upper & vec4<u32>(0x80000000u)));
}
