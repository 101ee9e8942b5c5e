// F8_E5M2: 16 weights to a 16-byte load; a code is the upper byte of an f16. Only where the
// start-up test shows that f16 subnormals survive.
const QUARTERS: u32 = 4u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 1.0;   // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    let odd = load[quarter];
    let b13 = unpack2x16float(odd & 0xff00ff00u);
    let b02 = unpack2x16float((odd << 8u) & 0xff00ff00u);
    return vec4<f32>(b02.x, b13.x, b02.y, b13.y);
}
