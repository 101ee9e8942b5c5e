// Parameters and bindings of attend_one; rotating, and reading the cache, eight elements at a time.
struct Params {
    kv_heads: u32,
    group: u32,      // query heads per key/value head
    half: u32,       // head_dim / 2
    qkv_pitch: u32,  // f32 between rows of qkv
    out_pitch: u32,  // f32 between rows of attn_out
    slots: u32,      // positions in the cache, as SLOTS
    window: u32,     // keys visible to a query, itself included
    scale: f32,      // head_dim^-0.5
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> rope: array<vec2<f32>>;               // (half) cosine, sine
@group(0) @binding(3) var<storage, read> qkv: array<f32>;                      // (1, qkv_pitch)
@group(0) @binding(4) var<storage, read_write> key_cache: array<CacheLoad>;    // (kv_heads, slots, ROW)
@group(0) @binding(5) var<storage, read_write> value_cache: array<CacheLoad>;  // (kv_heads, slots, ROW)
@group(0) @binding(6) var<storage, read_write> attn_out: array<f32>;           // (1, out_pitch)
@group(0) @binding(7) var<storage, read_write> pieces: array<f32>;             // (heads, splits, head_dim + 2)

override HALF: u32 = 64u;   // params.half, a multiple of 4, known when compiled
override SLOTS: u32 = 1u;   // positions in the cache: by a constant, division is a multiplication and a shift

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

// Eight neighbouring elements.
struct Eight {
    a: vec4<f32>,
    b: vec4<f32>,
}

fn scaled(load: vec4<u32>, scale: f32) -> Eight {
    return Eight(first4(load) * scale, last4(load) * scale);
}

// Where the key, the value in a slot begins.
fn row_of(slot: u32, kv_head: u32) -> u32 {
    return (kv_head * SLOTS + slot) * ROW;
}

// Load `unit` of the key, the value in a slot.
fn key_at(slot: u32, kv_head: u32, unit: u32) -> Eight {
    let row = row_of(slot, kv_head);
    return scaled(key_load(row + unit), key_scale(row));
}

fn value_at(slot: u32, kv_head: u32, unit: u32) -> Eight {
    let row = row_of(slot, kv_head);
    return scaled(value_load(row + unit), value_scale(row));
}
