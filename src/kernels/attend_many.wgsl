// Attention of a prompt over the rolling cache with an online softmax; memory is linear in the context. A
// workgroup serves one key/value head and 4 * DOWN queries of its group (token by token, the group's heads
// within a token) and walks tiles of 4 * UNITS keys that start at multiples of that in the sequence. A thread
// has 4 queries, 4 keys of a tile for their scores, and one load (8 elements) of the output.
//
// On a GPU: 16-byte loads; STAGE loads of every key of a tile lie in workgroup memory at a time, read from
// rows of contiguous bytes; UNITS neighbouring threads read one value, 16 * UNITS contiguous bytes. 8 vec4 of
// queries, which neighbours share, and 4 loads of keys make 128 multiply-adds; a value and a vec4 of weights
// 32. 16 + 32 registers of sums. Two barriers a tile, and two for each stage of its keys.
override DOWN: u32 = 16u;   // threads along the queries
const STAGE: u32 = 4u;      // loads of a key in workgroup memory at a time
const STRIDE: u32 = 5u;     // and the distance between keys, odd against bank conflicts
override KEYS: u32 = 4u * UNITS;
override WG: u32 = UNITS * DOWN;

var<workgroup> staged: array<vec4<u32>, KEYS * STRIDE>;
var<workgroup> weight: array<vec4<f32>, KEYS * DOWN>;  // exp(score - maximum) of 4 queries
var<workgroup> tops: array<vec4<f32>, WG>;             // largest score among a thread's keys

@compute @workgroup_size(WG)
fn attend_many(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let kv_head = wid.y;
    let tx = thread % UNITS;
    let ty = thread / UNITS;
    let all_rows = batch.tokens * params.group;
    let row0 = wid.x * DOWN * 4u;
    let last_row = min(row0 + DOWN * 4u, all_rows) - 1u;
    // Rows past the end repeat the last one and are not written.
    let rows = row0 + ty * 4u + vec4<u32>(0u, 1u, 2u, 3u);
    let held = min(rows, vec4<u32>(last_row));
    let token = held / params.group;
    let head = kv_head * params.group + held % params.group;
    let query = token * (params.qkv_pitch / 4u) + head * UNITS * 2u;
    let position = batch.position + token;

    let first_position = batch.position + row0 / params.group;
    let last_position = batch.position + last_row / params.group;
    let first_key = first_position - min(first_position, params.window - 1u);
    var top = vec4<f32>(LOWEST);  // components here and below: the thread's queries
    var norm = vec4<f32>();
    var o0 = vec4<f32>();
    var o1 = vec4<f32>();
    var o2 = vec4<f32>();
    var o3 = vec4<f32>();
    var o4 = vec4<f32>();
    var o5 = vec4<f32>();
    var o6 = vec4<f32>();
    var o7 = vec4<f32>();
    for (var tile = first_key / KEYS; tile <= last_position / KEYS; tile++) {
        let start = tile * KEYS;
        let own = start + tx + UNITS * vec4<u32>(0u, 1u, 2u, 3u);
        var s0 = vec4<f32>();
        var s1 = vec4<f32>();
        var s2 = vec4<f32>();
        var s3 = vec4<f32>();
        for (var unit = 0u; unit < UNITS; unit++) {
            if (unit % STAGE == 0u) {
                workgroupBarrier();  // what was staged before has been read
                for (var i = thread; i < KEYS * STAGE; i += WG) {
                    if (unit + i % STAGE < UNITS) {
                        staged[i / STAGE * STRIDE + i % STAGE] =
                            key_at(place(start + i / STAGE, kv_head), unit + i % STAGE);
                    }
                }
                workgroupBarrier();
            }
            let from_key = tx * STRIDE + unit % STAGE;
            let k0 = staged[from_key];
            let k1 = staged[from_key + UNITS * STRIDE];
            let k2 = staged[from_key + 2u * UNITS * STRIDE];
            let k3 = staged[from_key + 3u * UNITS * STRIDE];
            let q = query + unit * 2u;
            let a = mat4x4<f32>(qkv[q.x], qkv[q.y], qkv[q.z], qkv[q.w]);
            let b = mat4x4<f32>(qkv[q.x + 1u], qkv[q.y + 1u], qkv[q.z + 1u], qkv[q.w + 1u]);
            s0 += first4(k0) * a + last4(k0) * b;
            s1 += first4(k1) * a + last4(k1) * b;
            s2 += first4(k2) * a + last4(k2) * b;
            s3 += first4(k3) * a + last4(k3) * b;
        }
        s0 = masked(s0 * key_scale(place(own.x, kv_head)), vec4<u32>(own.x), position);
        s1 = masked(s1 * key_scale(place(own.y, kv_head)), vec4<u32>(own.y), position);
        s2 = masked(s2 * key_scale(place(own.z, kv_head)), vec4<u32>(own.z), position);
        s3 = masked(s3 * key_scale(place(own.w, kv_head)), vec4<u32>(own.w), position);
        tops[thread] = max(max(s0, s1), max(s2, s3));
        workgroupBarrier();  // and the last tile's weights have been read
        let before = top;
        for (var i = 0u; i < UNITS; i++) {
            top = max(top, tops[ty * UNITS + i]);
        }
        weight[tx * DOWN + ty] = weigh(s0, top);
        weight[(tx + UNITS) * DOWN + ty] = weigh(s1, top);
        weight[(tx + 2u * UNITS) * DOWN + ty] = weigh(s2, top);
        weight[(tx + 3u * UNITS) * DOWN + ty] = weigh(s3, top);
        workgroupBarrier();
        let fade = exp(before - top);  // factor on what earlier tiles gave
        norm *= fade;
        o0 *= fade;
        o1 *= fade;
        o2 *= fade;
        o3 *= fade;
        o4 *= fade;
        o5 *= fade;
        o6 *= fade;
        o7 *= fade;
        let stop = min(KEYS, last_position + 1u - start);
        for (var key = 0u; key < stop; key++) {
            var w = weight[key * DOWN + ty];
            let row = place(start + key, kv_head);
            let load = value_at(row, tx);
            let a = first4(load);
            let b = last4(load);
            norm += w;
            w *= value_scale(row);
            o0 += w * a.x;
            o1 += w * a.y;
            o2 += w * a.z;
            o3 += w * a.w;
            o4 += w * b.x;
            o5 += w * b.y;
            o6 += w * b.z;
            o7 += w * b.w;
        }
    }
    let low = transpose(mat4x4<f32>(o0 / norm, o1 / norm, o2 / norm, o3 / norm));
    let high = transpose(mat4x4<f32>(o4 / norm, o5 / norm, o6 / norm, o7 / norm));
    let out = token * (params.out_pitch / 4u) + (head * UNITS + tx) * 2u;
    if (rows.x <= last_row) {
        attn_out[out.x] = low[0];
        attn_out[out.x + 1u] = high[0];
    }
    if (rows.y <= last_row) {
        attn_out[out.y] = low[1];
        attn_out[out.y + 1u] = high[1];
    }
    if (rows.z <= last_row) {
        attn_out[out.z] = low[2];
        attn_out[out.z + 1u] = high[2];
    }
    if (rows.w <= last_row) {
        attn_out[out.w] = low[3];
        attn_out[out.w + 1u] = high[3];
    }
}
