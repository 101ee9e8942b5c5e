// F8_E4M3 codes with a scale for each key and each value of a head: its largest magnitude, `most`, becomes 448.
const SMALLEST: f32 = 1e-30;  // below it the reciprocal might overflow where it is used: all zeros

fn scale_of(most: f32) -> f32 {
    return select(most / 448.0, 1.0, most < SMALLEST);
}

// Codes of four elements, each the nearest, ties to even.
fn encode4(elements: vec4<f32>, most: f32) -> u32 {
    let scaled = elements * select(448.0 / most, 1.0, most < SMALLEST);
    let magnitude = min(abs(scaled), vec4<f32>(448.0));
    let bits = bitcast<vec4<u32>>(magnitude);
    // Rebias the exponent from 127 to 7; below 2^-6 the mantissa counts 2^-9.
    let odd = (bits >> vec4<u32>(20u)) & vec4<u32>(1u);
    let normal = ((bits + odd + vec4<u32>(0x7ffffu)) >> vec4<u32>(20u)) - vec4<u32>(960u);
    let subnormal = vec4<u32>(round(magnitude * 512.0));
    let sign = (bitcast<vec4<u32>>(scaled) >> vec4<u32>(24u)) & vec4<u32>(0x80u);
    let codes = (select(normal, subnormal, magnitude < vec4<f32>(0.015625)) | sign) << vec4<u32>(0u, 8u, 16u, 24u);
    return codes.x | codes.y | codes.z | codes.w;
}
