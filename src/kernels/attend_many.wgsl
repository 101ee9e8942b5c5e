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
override STAGED: u32 = 320u;  // keys in workgroup memory, KEYS * STRIDE; 1: each thread reads its own
const STAGE: u32 = 4u;        // loads of a key there at a time
const STRIDE: u32 = 5u;       // and the distance between keys, odd against bank conflicts
override KEYS: u32 = 4u * UNITS;
override WG: u32 = UNITS * DOWN;

var<workgroup> staged: array<vec4<u32>, STAGED>;
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
    var top = vec4<f32>(HIDDEN);  // components here and below: the thread's queries
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
        let at = vec4<u32>(place(own.x, kv_head), place(own.y, kv_head), place(own.z, kv_head), place(own.w, kv_head));
        var s0 = vec4<f32>();
        var s1 = vec4<f32>();
        var s2 = vec4<f32>();
        var s3 = vec4<f32>();
        for (var unit = 0u; unit < UNITS; unit++) {
            var k0 = vec4<u32>();
            var k1 = vec4<u32>();
            var k2 = vec4<u32>();
            var k3 = vec4<u32>();
            if (STAGED == 1u) {
                k0 = key_load(at.x + unit);
                k1 = key_load(at.y + unit);
                k2 = key_load(at.z + unit);
                k3 = key_load(at.w + unit);
            } else {
                if (unit % STAGE == 0u) {
                    workgroupBarrier();  // what was staged before has been read
                    for (var i = thread; i < KEYS * STAGE; i += WG) {
                        if (unit + i % STAGE < UNITS) {
                            staged[i / STAGE * STRIDE + i % STAGE] =
                                key_load(place(start + i / STAGE, kv_head) + unit + i % STAGE);
                        }
                    }
                    workgroupBarrier();
                }
                let from_key = tx * STRIDE + unit % STAGE;
                k0 = staged[from_key];
                k1 = staged[from_key + UNITS * STRIDE];
                k2 = staged[from_key + 2u * UNITS * STRIDE];
                k3 = staged[from_key + 3u * UNITS * STRIDE];
            }
            let q = query + unit * 2u;
            let a = mat4x4<f32>(qkv[q.x], qkv[q.y], qkv[q.z], qkv[q.w]);
            let b = mat4x4<f32>(qkv[q.x + 1u], qkv[q.y + 1u], qkv[q.z + 1u], qkv[q.w + 1u]);
            s0 += first4(k0) * a + first4(k0.zwxy) * b;
            s1 += first4(k1) * a + first4(k1.zwxy) * b;
            s2 += first4(k2) * a + first4(k2.zwxy) * b;
            s3 += first4(k3) * a + first4(k3.zwxy) * b;
        }
        s0 = masked(s0 * key_scale(at.x), own.x, position);
        s1 = masked(s1 * key_scale(at.y), own.y, position);
        s2 = masked(s2 * key_scale(at.z), own.z, position);
        s3 = masked(s3 * key_scale(at.w), own.w, position);
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
            let load = value_load(row + tx);
            let a = first4(load);
            let b = first4(load.zwxy);
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
