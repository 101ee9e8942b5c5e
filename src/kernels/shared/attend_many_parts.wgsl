// Parameters and bindings of attend_many; loads of the cache and masks.
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
@group(0) @binding(2) var<storage, read> qkv: array<vec4<f32>>;              // (T, qkv_pitch / 4)
@group(0) @binding(3) var<storage, read> key_cache: array<CacheLoad>;        // (kv_heads, slots, ROW)
@group(0) @binding(4) var<storage, read> value_cache: array<CacheLoad>;      // (kv_heads, slots, ROW)
@group(0) @binding(5) var<storage, read_write> attn_out: array<vec4<f32>>;   // (T, out_pitch / 4)

override UNITS: u32 = 8u;   // loads of a key or a value, and threads along the keys
override SLOTS: u32 = 1u;   // positions in the cache: by a constant, division is a multiplication and a shift
const HIDDEN: f32 = -1e30;  // stands for minus infinity, which WGSL may assume away
const LOWEST: f32 = -1e29;  // below every score that is seen, and above HIDDEN

// Where the key and the value of a position lie; of one that is no more or not yet there, some other's.
fn place(position: u32, kv_head: u32) -> u32 {
    return (kv_head * SLOTS + position % SLOTS) * ROW;
}

// Eight elements of a key or a value.
fn key_at(place: u32, unit: u32) -> vec4<u32> {
    return key_load(place + unit);
}

fn value_at(place: u32, unit: u32) -> vec4<u32> {
    return value_load(place + unit);
}

// Scores of pairs of a key and a query, at these positions.
fn masked(scores: vec4<f32>, keys: vec4<u32>, queries: vec4<u32>) -> vec4<f32> {
    let seen = (keys <= queries) & ((queries - min(queries, keys)) < vec4<u32>(params.window));
    return select(vec4<f32>(HIDDEN), scores * params.scale, seen);
}

// exp(scores - tops), tops being LOWEST or more; what hardly counts is zero, lest sums have subnormals, which cost
// a CPU many times a product.
fn weigh(scores: vec4<f32>, tops: vec4<f32>) -> vec4<f32> {
    let below = scores - tops;
    return select(vec4<f32>(), exp(below), below > vec4<f32>(-60.0));
}
