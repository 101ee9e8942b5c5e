// Parameters and bindings of attend_one; rotating, packing and unpacking, 16 bytes at a time.
struct Params {
    kv_heads: u32,
    group: u32,      // query heads per key/value head
    half: u32,       // head_dim / 2
    qkv_pitch: u32,  // f32 between rows of qkv
    out_pitch: u32,  // f32 between rows of attn_out
    slots: u32,      // positions in the cache
    window: u32,     // keys visible to a query, itself included
    scale: f32,      // head_dim^-0.5
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> rope: array<vec2<f32>>;               // (half) cosine, sine
@group(0) @binding(3) var<storage, read> qkv: array<f32>;                      // (1, qkv_pitch)
@group(0) @binding(4) var<storage, read_write> key_cache: array<vec4<u32>>;    // (slots, kv_heads, half / 4)
@group(0) @binding(5) var<storage, read_write> value_cache: array<vec4<u32>>;  // (slots, kv_heads, half / 4)
@group(0) @binding(6) var<storage, read_write> attn_out: array<f32>;           // (1, out_pitch)
@group(0) @binding(7) var<storage, read_write> pieces: array<f32>;             // (heads, splits, head_dim + 2)

override HALF: u32 = 64u;      // params.half, a multiple of 4, known when compiled
const F16_MAX: f32 = 65504.0;  // beyond it a stored value would become infinite

// Element i of the head that starts at `head`, rotated.
fn rotated(head: u32, i: u32) -> f32 {
    let pair = i % HALF;
    let r = rope[pair];
    let a = qkv[head + pair];
    let b = qkv[head + pair + HALF];
    return select(b * r.x + a * r.y, a * r.x - b * r.y, i < HALF);
}

fn rotated4(head: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(rotated(head, i), rotated(head, i + 1u), rotated(head, i + 2u), rotated(head, i + 3u));
}

fn plain4(at: u32) -> vec4<f32> {
    return vec4<f32>(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]);
}

fn pack(a: vec4<f32>, b: vec4<f32>) -> vec4<u32> {
    let c = clamp(a, vec4<f32>(-F16_MAX), vec4<f32>(F16_MAX));
    let d = clamp(b, vec4<f32>(-F16_MAX), vec4<f32>(F16_MAX));
    return vec4<u32>(pack2x16float(c.xy), pack2x16float(c.zw), pack2x16float(d.xy), pack2x16float(d.zw));
}

// Eight neighbouring elements.
struct Eight {
    a: vec4<f32>,
    b: vec4<f32>,
}

fn unpacked(load: vec4<u32>) -> Eight {
    return Eight(
        vec4<f32>(unpack2x16float(load.x), unpack2x16float(load.y)),
        vec4<f32>(unpack2x16float(load.z), unpack2x16float(load.w)),
    );
}

// Load `unit` of the key, the value in a slot; only these four functions know how the cache is stored.
fn key_at(slot: u32, kv_head: u32, unit: u32) -> Eight {
    return unpacked(key_cache[(slot * params.kv_heads + kv_head) * (HALF / 4u) + unit]);
}

fn value_at(slot: u32, kv_head: u32, unit: u32) -> Eight {
    return unpacked(value_cache[(slot * params.kv_heads + kv_head) * (HALF / 4u) + unit]);
}

fn store_key(slot: u32, kv_head: u32, unit: u32, a: vec4<f32>, b: vec4<f32>) {
    key_cache[(slot * params.kv_heads + kv_head) * (HALF / 4u) + unit] = pack(a, b);
}

fn store_value(slot: u32, kv_head: u32, unit: u32, a: vec4<f32>, b: vec4<f32>) {
    value_cache[(slot * params.kv_heads + kv_head) * (HALF / 4u) + unit] = pack(a, b);
}
