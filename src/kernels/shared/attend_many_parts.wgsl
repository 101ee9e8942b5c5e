// Parameters and bindings of attend_many; places in the cache, masks and weights, four queries at a time.
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
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;              // (T, qkv_pitch / 4)
@group(0) @binding(3) var<storage, read> key_cache: array<CacheLoad>;        // (slots, kv_heads, ROW)
@group(0) @binding(4) var<storage, read> value_cache: array<CacheLoad>;      // (slots, kv_heads, ROW)
@group(0) @binding(5) var<storage, read_write> attn_out: array<vec4<f32>>;   // (T, out_pitch / 4)

override UNITS: u32 = 8u;   // loads of a key or a value, and threads along the keys
const HIDDEN: f32 = -1e30;  // stands for minus infinity, which WGSL may assume away

// The first load of a key or a value at this position, or where it was before it rolled over.
fn place(position: u32, kv_head: u32) -> u32 {
    return ((position % params.slots) * params.kv_heads + kv_head) * ROW;
}

fn masked(scores: vec4<f32>, position: u32, queries: vec4<u32>) -> vec4<f32> {
    let key = vec4<u32>(position);
    let seen = (key <= queries) & ((queries - min(queries, key)) < vec4<u32>(params.window));
    return select(vec4<f32>(HIDDEN), scores * params.scale, seen);
}

fn weigh(scores: vec4<f32>, top: vec4<f32>) -> vec4<f32> {
    return select(vec4<f32>(), exp(scores - top), scores > vec4<f32>(HIDDEN));
}
