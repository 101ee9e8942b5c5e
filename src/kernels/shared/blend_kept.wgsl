// A blend on adapters that keep subnormals and the signs of zeros: nothing is tiny. A group with anything that is not
// finite counts as one, and NaN may be stored as anything: what is counted is blended once more.
struct Four {
    bits: vec4<u32>,  // of four elements in f32
}

fn blend4(x: vec4<f32>, y: vec4<f32>) -> Four {
    // Opaque: a sum that is contracted with a product rounds once where it must round twice.
    let p = opaque4(params.c0 * x, params.zero);
    let q = opaque4(params.c1 * y, params.zero);
    return Four(bitcast<vec4<u32>>(p + q));
}

fn finish(group: u32, low: Four, high: Four) -> u32 {
    store8(group, narrow_number(low.bits), narrow_number(high.bits));
    let ones = vec4<u32>(0x7fffffffu);
    let most = max(low.bits & ones, high.bits & ones);
    return select(0u, 1u, max(max(most.x, most.y), max(most.z, most.w)) >= LEAST_INFINITE);
}
