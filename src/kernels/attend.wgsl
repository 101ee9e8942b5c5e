// Attention over the rolling cache with an online softmax. A workgroup serves one key/value head and
// ROWS queries of its group (token by token, the group's heads within a token), so that a key is read
// once for all of them; it walks tiles of KEYS keys that start at multiples of KEYS in the sequence.
// With splits > 1 it leaves a partial result for attend_reduce.
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
@group(0) @binding(2) var<storage, read> qkv: array<f32>;                // (T, qkv_pitch)
@group(0) @binding(3) var<storage, read> key_cache: array<u32>;          // (kv_heads, slots, words of a row)
@group(0) @binding(4) var<storage, read> value_cache: array<u32>;        // (kv_heads, slots, words of a row)
@group(0) @binding(5) var<storage, read_write> attn_out: array<f32>;     // (T, out_pitch)
@group(0) @binding(6) var<storage, read_write> pieces: array<f32>;      // (T * heads, splits, head_dim + 2)

override WG: u32 = 64u;
override HALF: u32 = 64u;  // params.half, known when compiled
override ROWS: u32 = 8u;   // queries per workgroup, at most 8
override KEYS: u32 = 32u;  // keys per tile
override SLOTS: u32 = 1u;  // positions in the cache: by a constant, division is a multiplication and a shift
const MAX_ROWS: u32 = 8u;
const MAX_WORDS: u32 = 4u; // head words a thread accumulates, at most
override WORDS: u32 = (HALF + WG - 1u) / WG;
const HIDDEN: f32 = -1e30; // stands for minus infinity, which WGSL may assume away

var<workgroup> query: array<vec2<f32>, ROWS * HALF>;
var<workgroup> key_tile: array<u32, KEYS * (HALF + 1u)>;  // one word of padding against bank conflicts
var<workgroup> weight: array<f32, ROWS * KEYS>;           // scores, then exp(score - maximum)
var<workgroup> maximum: array<f32, ROWS>;
var<workgroup> fade: array<f32, ROWS>;                    // factor on what earlier tiles gave

// The key or value at this position, or what was there before it rolled over.
fn row_of(position: u32, kv_head: u32) -> u32 {
    return kv_head * SLOTS + position % SLOTS;
}

@compute @workgroup_size(WG)
fn attend(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let kv_head = wid.y;
    let split = wid.z;
    let first_row = wid.x * ROWS;
    let n_rows = min(ROWS, batch.tokens * params.group - first_row);
    let heads = params.kv_heads * params.group;

    for (var i = thread; i < n_rows * HALF; i += WG) {
        let row = first_row + i / HALF;
        let head = kv_head * params.group + row % params.group;
        let at = (row / params.group) * params.qkv_pitch + (head * HALF + i % HALF) * 2u;
        query[i] = vec2<f32>(qkv[at], qkv[at + 1u]) * params.scale;
    }
    if (thread < ROWS) {
        maximum[thread] = HIDDEN;
    }
    var sum: array<vec2<f32>, MAX_ROWS * MAX_WORDS>;
    var norm: array<f32, MAX_ROWS>;

    let first_position = batch.position + first_row / params.group;
    let last_position = batch.position + (first_row + n_rows - 1u) / params.group;
    let first_key = first_position - min(first_position, params.window - 1u);
    let tiles_end = last_position / KEYS + 1u;
    var tile = first_key / KEYS + split * batch.tiles_per_split;
    let tile_stop = min(tiles_end, tile + batch.tiles_per_split);
    for (; tile < tile_stop; tile++) {
        workgroupBarrier();  // the previous tile's keys and weights have been read
        for (var i = thread; i < KEYS * HALF; i += WG) {
            key_tile[(i / HALF) * (HALF + 1u) + i % HALF] = key_word(row_of(tile * KEYS + i / HALF, kv_head), i % HALF);
        }
        workgroupBarrier();
        for (var i = thread; i < ROWS * KEYS; i += WG) {
            let row = i / KEYS;
            let key = i % KEYS;
            let q_position = batch.position + (first_row + row) / params.group;
            let k_position = tile * KEYS + key;
            var score = HIDDEN;
            if (row < n_rows && k_position <= q_position && q_position - k_position < params.window) {
                score = 0.0;
                for (var j = 0u; j < HALF; j++) {
                    score += dot(query[row * HALF + j], unpack2x16float(key_tile[key * (HALF + 1u) + j]));
                }
                score = scaled_by_key(score, row_of(k_position, kv_head));
            }
            weight[i] = score;
        }
        workgroupBarrier();
        if (thread < ROWS) {
            var top = maximum[thread];
            let before = top;
            for (var key = 0u; key < KEYS; key++) {
                top = max(top, weight[thread * KEYS + key]);
            }
            maximum[thread] = top;
            fade[thread] = exp(before - top);
        }
        workgroupBarrier();
        for (var i = thread; i < ROWS * KEYS; i += WG) {
            let score = weight[i];
            weight[i] = select(0.0, exp(score - maximum[i / KEYS]), score > HIDDEN);
        }
        workgroupBarrier();
        for (var row = 0u; row < ROWS; row++) {
            norm[row] *= fade[row];
            for (var key = 0u; key < KEYS; key++) {
                norm[row] += weight[row * KEYS + key];
            }
        }
        for (var w = 0u; w < WORDS; w++) {
            let word = thread + w * WG;
            if (word >= HALF) {
                break;
            }
            for (var row = 0u; row < ROWS; row++) {
                sum[row * MAX_WORDS + w] *= fade[row];
            }
            for (var key = 0u; key < KEYS; key++) {
                let value = value_pair(row_of(tile * KEYS + key, kv_head), word);
                for (var row = 0u; row < ROWS; row++) {
                    sum[row * MAX_WORDS + w] += weight[row * KEYS + key] * value;
                }
            }
        }
    }
    workgroupBarrier();
    for (var row = 0u; row < n_rows; row++) {
        let token = (first_row + row) / params.group;
        let head = kv_head * params.group + (first_row + row) % params.group;
        let slice = ((token * heads + head) * batch.splits + split) * (2u * HALF + 2u);
        for (var w = 0u; w < WORDS; w++) {
            let word = thread + w * WG;
            if (word >= HALF) {
                break;
            }
            // A split that sees no key has norm 0 and weighs nothing in the reduction.
            let value = sum[row * MAX_WORDS + w] / max(norm[row], 1e-30);
            if (batch.splits == 1u) {
                let at = token * params.out_pitch + (head * HALF + word) * 2u;
                attn_out[at] = value.x;
                attn_out[at + 1u] = value.y;
            } else {
                pieces[slice + 2u * word] = value.x;
                pieces[slice + 2u * word + 1u] = value.y;
            }
        }
        if (thread == 0u && batch.splits > 1u) {
            pieces[slice + 2u * HALF] = maximum[row];
            pieces[slice + 2u * HALF + 1u] = norm[row];
        }
    }
}
