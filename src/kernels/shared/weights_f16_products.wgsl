// F16: 8 weights to a 16-byte load, in integer arithmetic as weights_f16_safe has it, with products for shifts to the
// left: for adapters that shift lane by lane.
const QUARTERS: u32 = 2u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 1.0;   // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    let words = select(load.xy, load.zw, quarter == 1u);
    let halves = vec4<u32>(words.x, words.x >> 16u, words.y, words.y >> 16u);
    let bits = (halves & vec4<u32>(0x7fffu)) * vec4<u32>(0x2000u);
    let signs = halves * vec4<u32>(0x10000u);
    let normal = bitcast<vec4<f32>>(bits + vec4<u32>(0x38000000u));
    let subnormal = bitcast<vec4<f32>>(bits + vec4<u32>(0x38800000u)) - vec4<f32>(6.103515625e-5);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(min(normal, subnormal)) | (signs & vec4<u32>(0x80000000u)));
}
