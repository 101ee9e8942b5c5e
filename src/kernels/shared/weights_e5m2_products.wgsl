// F8_E5M2: 16 weights to a 16-byte load, in integer arithmetic as weights_e5m2_safe has it, with products for shifts to
// the left: for adapters that shift lane by lane.
const QUARTERS: u32 = 4u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 1.0;   // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    let word = load[quarter];
    let codes = vec4<u32>(word, word, word, word >> 3u);
    let bits = (codes & vec4<u32>(0x7fu, 0x7f00u, 0x7f0000u, 0xfe00000u)) * vec4<u32>(0x200000u, 0x2000u, 0x20u, 1u);
    let signs = codes * vec4<u32>(0x1000000u, 0x10000u, 0x100u, 0x8u);
    let normal = bitcast<vec4<f32>>(bits + vec4<u32>(0x38000000u));
    let subnormal = bitcast<vec4<f32>>(bits + vec4<u32>(0x38800000u)) - vec4<f32>(6.103515625e-5);
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(min(normal, subnormal)) | (signs & vec4<u32>(0x80000000u)));
}
