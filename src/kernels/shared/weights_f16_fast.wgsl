// F16: 8 weights to a 16-byte load, through the hardware's own conversion. Only where
// the start-up test shows that it keeps subnormals.
const QUARTERS: u32 = 2u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 1.0;   // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    let words = select(load.xy, load.zw, quarter == 1u);
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
