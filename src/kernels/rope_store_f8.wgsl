// Rotates queries in place (half-split layout) and stores rotated keys, and values, in the rolling cache as
// F8_E4M3, with their scales behind them. One workgroup per head.
struct Params {
    heads: u32,     // query heads
    kv_heads: u32,  // key/value heads
    half: u32,      // head_dim / 2
    pitch: u32,     // f32 between rows of qkv
    slots: u32,     // positions in the cache
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> rope: array<vec2<f32>>;         // (T, half) cosine, sine
@group(0) @binding(3) var<storage, read_write> qkv: array<f32>;          // (T, pitch)
@group(0) @binding(4) var<storage, read_write> key_cache: array<u32>;    // (kv_heads, slots, words + 2)
@group(0) @binding(5) var<storage, read_write> value_cache: array<u32>;  // (kv_heads, slots, words + 2)

const WG: u32 = 64u;
var<workgroup> largest: array<f32, WG>;

// Element i of the head that starts at `head`, rotated if it is a key's; 0 behind its end.
fn element(head: u32, i: u32, token: u32, is_key: bool) -> f32 {
    if (i >= 2u * params.half) {
        return 0.0;
    }
    if (!is_key) {
        return qkv[head + i];
    }
    let pair = i % params.half;
    let r = rope[token * params.half + pair];
    let a = qkv[head + pair];
    let b = qkv[head + pair + params.half];
    return select(b * r.x + a * r.y, a * r.x - b * r.y, i < params.half);
}

@compute @workgroup_size(WG)
fn rope_store_f8(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = wid.y;
    let start = token * params.pitch + wid.x * params.half * 2u;
    if (wid.x < params.heads) {
        for (var i = thread; i < params.half; i += WG) {
            let low = element(start, i, token, true);
            let high = element(start, i + params.half, token, true);
            qkv[start + i] = low;
            qkv[start + i + params.half] = high;
        }
        return;
    }
    let is_key = wid.x < params.heads + params.kv_heads;
    var most = 0.0;
    for (var i = thread; i < 2u * params.half; i += WG) {
        most = max(most, abs(element(start, i, token, is_key)));
    }
    largest[thread] = most;
    for (var step = WG / 2u; step > 0u; step /= 2u) {
        workgroupBarrier();
        if (thread < step) {
            largest[thread] = max(largest[thread], largest[thread + step]);
        }
    }
    workgroupBarrier();
    most = largest[0];

    let words = (params.half + 3u) / 4u * 2u;
    let slot = (batch.position + token) % params.slots;
    let head = (wid.x - params.heads) % params.kv_heads;
    let row = (head * params.slots + slot) * (words + 2u);
    for (var word = thread; word <= words; word += WG) {
        var stored = bitcast<u32>(scale_of(most));
        if (word < words) {
            let i = word * 4u;
            stored = encode4(vec4<f32>(
                element(start, i, token, is_key), element(start, i + 1u, token, is_key),
                element(start, i + 2u, token, is_key), element(start, i + 3u, token, is_key)), most);
        }
        if (is_key) {
            key_cache[row + word] = stored;
        } else {
            value_cache[row + word] = stored;
        }
    }
}
