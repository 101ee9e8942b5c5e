// F8_E4M3: 16 weights to a 16-byte load, two at a time through the hardware's f16 conversion:
// the code's bits, moved into an f16, are its value / 256. Only where the start-up test
// shows that f16 subnormals survive.
const QUARTERS: u32 = 4u;        // groups of four weights in a load
const UNPACK_SCALE: f32 = 256.0; // what an unpacked value is still to be multiplied with

fn unpack4(load: vec4<u32>, quarter: u32) -> vec4<f32> {
    let odd = load[quarter];
    let even = odd << 8u;
    let b13 = unpack2x16float((odd & 0x80008000u) | ((odd & 0x7f007f00u) >> 1u));
    let b02 = unpack2x16float((even & 0x80008000u) | ((even & 0x7f007f00u) >> 1u));
    return vec4<f32>(b02.x, b13.x, b02.y, b13.y);
}
