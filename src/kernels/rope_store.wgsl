// Rotates queries in place (half-split layout) and stores rotated keys, and values, in the
// rolling cache, two f16 to a word. One thread per pair of elements, heads side by side.
struct Params {
    heads: u32,     // query heads
    kv_heads: u32,  // key/value heads
    half: u32,      // head_dim / 2: pairs, and words of the cache, per head
    pitch: u32,     // f32 between rows of qkv
    slots: u32,     // positions in the cache
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> rope: array<vec2<f32>>;         // (T, half) cosine, sine
@group(0) @binding(3) var<storage, read_write> qkv: array<f32>;          // (T, pitch)
@group(0) @binding(4) var<storage, read_write> key_cache: array<u32>;    // (kv_heads, slots, half)
@group(0) @binding(5) var<storage, read_write> value_cache: array<u32>;  // (kv_heads, slots, half)

const F16_MAX: f32 = 65504.0;  // beyond it a stored value would become infinite

fn pack(pair: vec2<f32>) -> u32 {
    return pack2x16float(clamp(pair, vec2<f32>(-F16_MAX), vec2<f32>(F16_MAX)));
}

// Element i of the head that starts at `head`, rotated.
fn rotated(head: u32, i: u32, token: u32) -> f32 {
    let pair = i % params.half;
    let r = rope[token * params.half + pair];
    let a = qkv[head + pair];
    let b = qkv[head + pair + params.half];
    return select(b * r.x + a * r.y, a * r.x - b * r.y, i < params.half);
}

@compute @workgroup_size(64)
fn rope_store(@builtin(global_invocation_id) gid: vec3<u32>) {
    let token = gid.y;
    let head = gid.x / params.half;
    let i = gid.x % params.half;
    let start = token * params.pitch + head * params.half * 2u;
    if (head < params.heads) {
        let low = rotated(start, i, token);
        let high = rotated(start, i + params.half, token);
        qkv[start + i] = low;
        qkv[start + i + params.half] = high;
        return;
    }
    let slot = (batch.position + token) % params.slots;
    let key = head - params.heads;
    if (key < params.kv_heads) {
        let pair = vec2<f32>(rotated(start, 2u * i, token), rotated(start, 2u * i + 1u, token));
        key_cache[(key * params.slots + slot) * params.half + i] = pack(pair);
    } else if (key < 2u * params.kv_heads) {
        let pair = vec2<f32>(qkv[start + 2u * i], qkv[start + 2u * i + 1u]);
        value_cache[((key - params.kv_heads) * params.slots + slot) * params.half + i] = pack(pair);
    }
}
