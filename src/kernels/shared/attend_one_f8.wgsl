// How attend_one stores in a cache of F8_E4M3, eight elements at a time. Every thread finds the whole row's
// scale by itself: it is one token's row, which all read at once, and a barrier less.
fn larger(most: f32, four: vec4<f32>) -> f32 {
    let m = abs(four);
    return max(most, max(max(m.x, m.y), max(m.z, m.w)));
}

fn store_key(slot: u32, kv_head: u32, unit: u32, a: vec4<f32>, b: vec4<f32>) {
    let head = (params.kv_heads * params.group + kv_head) * HALF * 2u;
    var most = 0.0;
    for (var i = 0u; i < 2u * HALF; i += 4u) {
        most = larger(most, rotated4(head, i));
    }
    let row = row_of(slot, kv_head);
    key_cache[row + unit] = vec2<u32>(encode4(a, most), encode4(b, most));
    if (unit == 0u) {
        key_cache[row + UNITS] = vec2<u32>(bitcast<u32>(scale_of(most)), 0u);
    }
}

fn store_value(slot: u32, kv_head: u32, unit: u32, a: vec4<f32>, b: vec4<f32>) {
    let head = (params.kv_heads * (params.group + 1u) + kv_head) * HALF * 2u;
    var most = 0.0;
    for (var i = 0u; i < 2u * HALF; i += 4u) {
        most = larger(most, plain4(head + i));
    }
    let row = row_of(slot, kv_head);
    value_cache[row + unit] = vec2<u32>(encode4(a, most), encode4(b, most));
    if (unit == 0u) {
        value_cache[row + UNITS] = vec2<u32>(bitcast<u32>(scale_of(most)), 0u);
    }
}
