// BF16: 8 weights to a 16-byte load; the upper half of an f32. A product for the shift: for adapters that shift lane by
// lane.
const QUARTERS: u32 = 2u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 1.0;   // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    let words = select(load.xy, load.zw, quarter == 1u);
    let lower = words * vec2<u32>(0x10000u);
    let upper = words & vec2<u32>(0xffff0000u);
    return bitcast<vec4<f32>>(vec4<u32>(lower.x, upper.x, lower.y, upper.y));
}
