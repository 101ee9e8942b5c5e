// Attention of one token (decode) over the rolling cache, with an online softmax, the rotary embedding in
// front of it and the store of the token's own key and value. A workgroup serves one key/value head, all
// ROWS queries of its group, so that a key is read once for all of them, and one split of the cache; with
// splits > 1 it leaves a partial result for attend_reduce. The last split stores, and reads what it stored.
//
// On a GPU: 16-byte loads; PARTS neighbouring threads read a key's neighbouring loads, UNITS threads a whole
// value, 16 * UNITS contiguous bytes; GROUPS values are in flight at once. Sums take 8 registers per query.
// Five barriers per tile of KEYS keys; workgroup memory stays small enough for several workgroups at once.
override WG: u32 = 64u;
override ROWS: u32 = 4u;    // params.group, at most 8
override KEYS: u32 = 64u;   // keys per tile
override PARTS: u32 = 4u;   // threads that share a key's score
override UNITS: u32 = HALF / 4u;      // 16-byte loads of a key or a value; at most WG
override GROUPS: u32 = WG / UNITS;    // values that are added up side by side
const MAX_ROWS: u32 = 8u;
const HIDDEN: f32 = -1e30;      // stands for minus infinity, which WGSL may assume away

var<workgroup> query: array<vec4<f32>, ROWS * UNITS * 2u>;
var<workgroup> partial: array<f32, ROWS * KEYS * PARTS>;
var<workgroup> weight: array<f32, ROWS * KEYS>;  // scores, then exp(score - maximum)
var<workgroup> maximum: array<f32, ROWS>;
var<workgroup> fade: array<f32, ROWS>;           // factor on what earlier tiles gave
var<workgroup> norm: array<f32, ROWS>;
var<workgroup> joined: array<vec4<f32>, WG * 2u>;

@compute @workgroup_size(WG)
fn attend_one(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let kv_head = wid.x;
    let split = wid.y;
    let heads = params.kv_heads * ROWS;
    let first_key = batch.position - min(batch.position, params.window - 1u);
    let tiles_end = batch.position / KEYS + 1u;
    var tile = first_key / KEYS + split * batch.tiles_per_split;
    let tile_stop = min(tiles_end, tile + batch.tiles_per_split);

    for (var i = thread; i < ROWS * UNITS * 2u; i += WG) {
        let head = (kv_head * ROWS + i / (UNITS * 2u)) * HALF * 2u;
        query[i] = rotated4(head, i % (UNITS * 2u) * 4u) * params.scale;
    }
    if (tile_stop == tiles_end) {
        let key = (heads + kv_head) * HALF * 2u;
        let value = (heads + params.kv_heads + kv_head) * HALF * 2u;
        let slot = batch.position % SLOTS;
        for (var u = thread; u < UNITS; u += WG) {
            store_key(slot, kv_head, u, rotated4(key, u * 8u), rotated4(key, u * 8u + 4u));
            store_value(slot, kv_head, u, plain4(value + u * 8u), plain4(value + u * 8u + 4u));
        }
    }
    if (thread < ROWS) {
        maximum[thread] = HIDDEN;
        norm[thread] = 0.0;
    }
    let unit = thread % UNITS;
    let own_group = thread / UNITS;  // GROUPS and more: too few threads for a whole value
    var sum: array<vec4<f32>, MAX_ROWS * 2u>;
    storageBarrier();
    for (; tile < tile_stop; tile++) {
        workgroupBarrier();  // the previous tile's weights have been read
        for (var i = thread; i < KEYS * PARTS; i += WG) {
            let position = tile * KEYS + i / PARTS;
            // Said, lest it keep the last turn's values: in Chromium it did.
            var score = array<f32, MAX_ROWS>();
            if (position >= first_key && position <= batch.position) {
                let slot = position % SLOTS;
                for (var u = i % PARTS; u < UNITS; u += PARTS) {
                    let k = key_at(slot, kv_head, u);
                    for (var row = 0u; row < ROWS; row++) {
                        let q = (row * UNITS + u) * 2u;
                        score[row] += dot(query[q], k.a) + dot(query[q + 1u], k.b);
                    }
                }
            }
            for (var row = 0u; row < ROWS; row++) {
                partial[row * KEYS * PARTS + i] = score[row];
            }
        }
        workgroupBarrier();
        for (var i = thread; i < ROWS * KEYS; i += WG) {
            let position = tile * KEYS + i % KEYS;
            var score = 0.0;
            for (var part = 0u; part < PARTS; part++) {
                score += partial[i * PARTS + part];
            }
            weight[i] = select(HIDDEN, score, position >= first_key && position <= batch.position);
        }
        workgroupBarrier();
        if (thread < ROWS) {
            let before = maximum[thread];
            var top = before;
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
        if (thread < ROWS) {
            var total = norm[thread] * fade[thread];
            for (var key = 0u; key < KEYS; key++) {
                total += weight[thread * KEYS + key];
            }
            norm[thread] = total;
        }
        for (var row = 0u; row < ROWS; row++) {
            sum[row * 2u] *= fade[row];
            sum[row * 2u + 1u] *= fade[row];
        }
        let stop = select(0u, min(KEYS, batch.position + 1u - tile * KEYS), own_group < GROUPS);
        for (var key = own_group; key < stop; key += GROUPS) {
            let slot = (tile * KEYS + key) % SLOTS;
            let v = value_at(slot, kv_head, unit);
            for (var row = 0u; row < ROWS; row++) {
                let w = weight[row * KEYS + key];
                sum[row * 2u] += w * v.a;
                sum[row * 2u + 1u] += w * v.b;
            }
        }
    }
    for (var row = 0u; row < ROWS; row++) {
        workgroupBarrier();
        joined[thread * 2u] = sum[row * 2u];
        joined[thread * 2u + 1u] = sum[row * 2u + 1u];
        workgroupBarrier();
        let head = kv_head * ROWS + row;
        let slice = (head * batch.splits + split) * (2u * HALF + 2u);
        for (var i = thread; i < 2u * HALF; i += WG) {
            var value = 0.0;
            for (var g = 0u; g < GROUPS; g++) {
                value += joined[g * UNITS * 2u + i / 4u][i % 4u];
            }
            value /= max(norm[row], 1e-30);  // a split that sees no key weighs nothing in the reduction
            if (batch.splits == 1u) {
                attn_out[head * HALF * 2u + i] = value;
            } else {
                pieces[slice + i] = value;
            }
        }
        if (thread == 0u && batch.splits > 1u) {
            pieces[slice + 2u * HALF] = maximum[row];
            pieces[slice + 2u * HALF + 1u] = norm[row];
        }
    }
}
