// F16: 8 weights to a 16-byte load, in integer arithmetic: exact for every finite value
// whatever the adapter does with f16 subnormals.
const QUARTERS: u32 = 2u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 1.0;   // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    let words = select(load.xy, load.zw, quarter == 1u);
    let h = vec4<u32>(words.x & 0xffffu, words.x >> 16u, words.y & 0xffffu, words.y >> 16u);
    let magnitude = h & vec4<u32>(0x7fffu);
    // Rebias the exponent from 15 to 127; below 2^-14 the mantissa counts 2^-24.
    let normal = bitcast<vec4<f32>>((magnitude << vec4<u32>(13u)) + vec4<u32>(0x38000000u));
    let subnormal = vec4<f32>(magnitude) * 5.9604644775390625e-8;
    let value = select(normal, subnormal, magnitude < vec4<u32>(0x400u));
    return select(value, -value, h >= vec4<u32>(0x8000u));
}
