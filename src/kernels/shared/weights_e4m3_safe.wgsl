// F8_E4M3: 16 weights to a 16-byte load, in integer arithmetic: exact for all 254 finite codes.
const QUARTERS: u32 = 4u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 1.0;   // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    let bytes = vec4<u32>(load[quarter]) >> vec4<u32>(0u, 8u, 16u, 24u);
    let magnitude = bytes & vec4<u32>(0x7fu);
    // Rebias the exponent from 7 to 127; below 2^-6 the mantissa counts 2^-9.
    let normal = bitcast<vec4<f32>>((magnitude << vec4<u32>(20u)) + vec4<u32>(0x3c000000u));
    let subnormal = vec4<f32>(magnitude) * 0.001953125;
    let value = select(normal, subnormal, magnitude < vec4<u32>(8u));
    return select(value, -value, (bytes & vec4<u32>(0x80u)) != vec4<u32>(0u));
}
