// F32: 4 weights to a 16-byte load.
const QUARTERS: u32 = 1u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 1.0;   // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(load);
}
