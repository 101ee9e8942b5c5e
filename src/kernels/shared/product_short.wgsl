// Products of values of at most 11 significant bits: exact in f32, so that it is all one whether they are fused
// with a sum; but for underflow, which the host bounds.
fn add_product(sum: Sum, x: vec4<f32>, y: vec4<f32>) -> Sum {
    if (EACH) {
        return add_below(sum, x * y);
    }
    let high = opaque4(fma(x, y, sum.high), params.zero);
    return Sum(high, sum.low + fma(x, y, sum.high - high));
}
