// Products of f32: both factors are cut into 12 significant bits each, so that the four partial
// products are exact. The last one is below what the others' roundings leave.
fn upper(x: vec4<f32>) -> vec4<f32> {
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) & vec4<u32>(0xfffff000u));
}

fn add_product(sum: Sum, x: vec4<f32>, y: vec4<f32>) -> Sum {
    let xh = upper(x);
    let yh = upper(y);
    let xl = opaque4(x - xh, params.zero);
    let yl = opaque4(y - yh, params.zero);
    let total = add_below(add_below(add_below(sum, xh * yh), xh * yl), xl * yh);
    return Sum(total.high, total.low + xl * yl);
}
