// How attend_one stores in a cache of f16, eight elements at a time.
const F16_MAX: f32 = 65504.0;  // beyond it a stored value would become infinite

fn pack(a: vec4<f32>, b: vec4<f32>) -> vec4<u32> {
    let c = clamp(a, vec4<f32>(-F16_MAX), vec4<f32>(F16_MAX));
    let d = clamp(b, vec4<f32>(-F16_MAX), vec4<f32>(F16_MAX));
    return vec4<u32>(pack2x16float(c.xy), pack2x16float(c.zw), pack2x16float(d.xy), pack2x16float(d.zw));
}

fn store_key(slot: u32, kv_head: u32, unit: u32, a: vec4<f32>, b: vec4<f32>) {
    key_cache[row_of(slot, kv_head) + unit] = pack(a, b);
}

fn store_value(slot: u32, kv_head: u32, unit: u32, a: vec4<f32>, b: vec4<f32>) {
    value_cache[row_of(slot, kv_head) + unit] = pack(a, b);
}
