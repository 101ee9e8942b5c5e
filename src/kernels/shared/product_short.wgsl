// Products of values of at most 11 significant bits: exact in f32.
fn add_product(sum: Sum, x: vec4<f32>, y: vec4<f32>) -> Sum {
    return add_below(sum, x * y);
}
