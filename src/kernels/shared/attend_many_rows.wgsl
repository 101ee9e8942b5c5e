// attend_many for adapters that compute on the CPU, where a load costs ten multiply-adds or more, of workgroup
// memory as well: a thread has 8 queries by 16 keys of scores, then 8 queries by 16 elements of the output, so
// that eight multiply-adds come for each load. Keys stay where they are. On a GPU 256 sums to a thread would be
// far too many: attend_many.wgsl.
override DOWN: u32 = 2u;  // threads along the queries
override KEYS: u32 = 16u * LANES;

var<workgroup> weight: array<vec4<f32>, 2u * KEYS * DOWN>;  // exp(score - maximum) of a key: of 8 queries
var<workgroup> tops: array<vec4<f32>, 2u * LANES * DOWN>;   // largest scores among a thread's keys

@compute @workgroup_size(LANES * DOWN)
fn attend_many(
    @builtin(workgroup_id) wid: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let kv_head = wid.y;
    let tx = thread % LANES;
    let ty = thread / LANES;
    // Threads of the CPU take parts of a grid one behind the other: later queries, which have more keys, go
    // between the earlier ones.
    let block = select(wid.x / 2u, groups.x - 1u - wid.x / 2u, wid.x % 2u == 1u);
    let row0 = block * DOWN * 8u;
    let last_row = min(row0 + DOWN * 8u, batch.tokens * params.group) - 1u;
    // Rows past the end repeat the last one and are not written.
    let rows0 = row0 + ty * 8u + vec4<u32>(0u, 1u, 2u, 3u);
    let rows1 = rows0 + 4u;
    let held0 = min(rows0, vec4<u32>(last_row));
    let held1 = min(rows1, vec4<u32>(last_row));
    let token0 = held0 / params.group;
    let token1 = held1 / params.group;
    let head0 = (kv_head * params.group + held0 % params.group) * UNITS * 2u;
    let head1 = (kv_head * params.group + held1 % params.group) * UNITS * 2u;
    let query0 = token0 * (params.qkv_pitch / 4u) + head0;
    let query1 = token1 * (params.qkv_pitch / 4u) + head1;

    let first_position = batch.position + row0 / params.group;
    let last_position = batch.position + last_row / params.group;
    let first_key = first_position - min(first_position, params.window - 1u);
    var top0 = vec4<f32>(LOWEST);  // components: queries
    var top1 = vec4<f32>(LOWEST);
    var norm0 = vec4<f32>();
    var norm1 = vec4<f32>();
    var o0 = Block();
    var o1 = Block();
    for (var tile = first_key / KEYS; tile <= last_position / KEYS; tile++) {
        let start = tile * KEYS;
        let own = start + tx;
        let at0 = places(own, kv_head);
        let at1 = places(own + 4u * LANES, kv_head);
        let at2 = places(own + 8u * LANES, kv_head);
        let at3 = places(own + 12u * LANES, kv_head);
        var s0 = Block();
        var s1 = Block();
        for (var unit = 0u; unit < UNITS; unit++) {
            let a = keys_at(at0, unit);
            let b = keys_at(at1, unit);
            let c = keys_at(at2, unit);
            let d = keys_at(at3, unit);
            let first = Keys(firsts(a), firsts(b), firsts(c), firsts(d));
            s0 = add_dots(s0, query0 + 2u * unit, first);
            s1 = add_dots(s1, query1 + 2u * unit, first);
            let last = Keys(lasts(a), lasts(b), lasts(c), lasts(d));
            s0 = add_dots(s0, query0 + 2u * unit + 1u, last);
            s1 = add_dots(s1, query1 + 2u * unit + 1u, last);
        }
        let scales = Sums(scales_at(at0), scales_at(at1), scales_at(at2), scales_at(at3));
        s0 = seen(s0, scales, own, batch.position + token0);
        s1 = seen(s1, scales, own, batch.position + token1);
        tops[2u * thread] = largest(s0);
        tops[2u * thread + 1u] = largest(s1);
        workgroupBarrier();  // and the last tile's weights have been read
        let before0 = top0;
        let before1 = top1;
        for (var i = ty * LANES; i < (ty + 1u) * LANES; i++) {
            top0 = max(top0, tops[2u * i]);
            top1 = max(top1, tops[2u * i + 1u]);
        }
        keep(2u * (ty * KEYS + tx), top0, s0);
        keep(2u * (ty * KEYS + tx) + 1u, top1, s1);
        workgroupBarrier();
        let fade0 = exp(before0 - top0);  // factor on what earlier tiles gave
        let fade1 = exp(before1 - top1);
        norm0 *= fade0;
        norm1 *= fade1;
        o0 = times(o0, fade0);
        o1 = times(o1, fade1);
        let stop = min(KEYS, last_position + 1u - start);
        for (var key = 0u; key < stop; key++) {
            let at = 2u * (ty * KEYS + key);
            let w0 = weight[at];
            let w1 = weight[at + 1u];
            let value = place(start + key, kv_head);
            let low = value_at(value, 2u * tx);
            let high = value_at(value, 2u * tx + 1u);
            let elements = Sums(first4(low), last4(low), first4(high), last4(high));
            norm0 += w0;
            norm1 += w1;
            let scale = value_scale(value);
            o0 = add_value(o0, w0 * scale, elements);
            o1 = add_value(o1, w1 * scale, elements);
        }
    }
    write(rows0, last_row, token0 * (params.out_pitch / 4u) + head0 + 4u * tx, times(o0, 1.0 / norm0));
    write(rows1, last_row, token1 * (params.out_pitch / 4u) + head1 + 4u * tx, times(o1, 1.0 / norm1));
}
