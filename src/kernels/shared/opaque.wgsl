// Hides a value from the shader compiler: `zero` is 0, but only at run time. Without it a compiler
// may contract a product and a sum into one rounding, or cancel what floats do not cancel.
fn opaque4(v: vec4<f32>, zero: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(v) ^ vec4<u32>(zero));
}
