// attend_one for adapters that compute on the CPU, where every value that is loaded costs as much as a dozen
// products, wherever it lies, and a division by what is no constant many more. A workgroup serves ROWS
// queries of a key/value head; a thread has eight keys of a tile for all of them, so that a query is loaded
// once for eight keys, and then one load (8 elements) of the output. Three barriers per tile.
@compute @workgroup_size(UNITS)
fn attend_one(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let kv_head = wid.x / CHUNKS;
    let split = wid.y;
    let heads = params.kv_heads * params.group;
    let first_row = (wid.x % CHUNKS) * ROWS;
    let first_key = batch.position - min(batch.position, params.window - 1u);
    let tiles_end = batch.position / KEYS + 1u;
    var tile = first_key / KEYS + split * batch.tiles_per_split;
    let tile_stop = min(tiles_end, tile + batch.tiles_per_split);

    for (var row = 0u; row < ROWS; row++) {
        // Queries past the end repeat the last one and are not written.
        let head = kv_head * params.group + min(first_row + row, params.group - 1u);
        for (var i = thread; i < UNITS * 8u; i += UNITS) {
            set_query(i, row, rotated(head * HALF * 2u, i) * params.scale);
        }
    }
    if (tile_stop == tiles_end) {
        let key = (heads + kv_head) * HALF * 2u;
        let value = (heads + params.kv_heads + kv_head) * HALF * 2u + thread * 8u;
        let slot = batch.position % SLOTS;
        store_key(slot, kv_head, thread, rotated4(key, thread * 8u), rotated4(key, thread * 8u + 4u));
        store_value(slot, kv_head, thread, plain4(value), plain4(value + 4u));
    }
    let step = UNITS % SLOTS;
    var top = Rows(HIDDEN);
    var norm = Rows();
    var o0 = Rows();
    var o1 = Rows();
    var o2 = Rows();
    var o3 = Rows();
    var o4 = Rows();
    var o5 = Rows();
    var o6 = Rows();
    var o7 = Rows();
    storageBarrier();
    for (; tile < tile_stop; tile++) {
        let key = tile * KEYS + thread;
        let at0 = key % SLOTS;
        let at1 = onward(at0, step);
        let at2 = onward(at1, step);
        let at3 = onward(at2, step);
        let at4 = onward(at3, step);
        let at5 = onward(at4, step);
        let at6 = onward(at5, step);
        let at7 = onward(at6, step);
        var s0 = Rows();
        var s1 = Rows();
        var s2 = Rows();
        var s3 = Rows();
        var s4 = Rows();
        var s5 = Rows();
        var s6 = Rows();
        var s7 = Rows();
        workgroupBarrier();  // queries are there; the last tile's weights have been read
        for (var unit = 0u; unit < UNITS; unit++) {
            let q = queries_at(unit);
            s0 += product(q, key_at(at0, kv_head, unit));
            s1 += product(q, key_at(at1, kv_head, unit));
            s2 += product(q, key_at(at2, kv_head, unit));
            s3 += product(q, key_at(at3, kv_head, unit));
            s4 += product(q, key_at(at4, kv_head, unit));
            s5 += product(q, key_at(at5, kv_head, unit));
            s6 += product(q, key_at(at6, kv_head, unit));
            s7 += product(q, key_at(at7, kv_head, unit));
        }
        s0 = masked(s0, key, first_key);
        s1 = masked(s1, key + UNITS, first_key);
        s2 = masked(s2, key + 2u * UNITS, first_key);
        s3 = masked(s3, key + 3u * UNITS, first_key);
        s4 = masked(s4, key + 4u * UNITS, first_key);
        s5 = masked(s5, key + 5u * UNITS, first_key);
        s6 = masked(s6, key + 6u * UNITS, first_key);
        s7 = masked(s7, key + 7u * UNITS, first_key);
        tops[thread] = max(max(max(s0, s1), max(s2, s3)), max(max(s4, s5), max(s6, s7)));
        workgroupBarrier();
        let before = top;
        for (var i = 0u; i < UNITS; i++) {
            top = max(top, tops[i]);
        }
        weight[thread] = weigh(s0, top);
        weight[thread + UNITS] = weigh(s1, top);
        weight[thread + 2u * UNITS] = weigh(s2, top);
        weight[thread + 3u * UNITS] = weigh(s3, top);
        weight[thread + 4u * UNITS] = weigh(s4, top);
        weight[thread + 5u * UNITS] = weigh(s5, top);
        weight[thread + 6u * UNITS] = weigh(s6, top);
        weight[thread + 7u * UNITS] = weigh(s7, top);
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
        var slot = (tile * KEYS) % SLOTS;
        let stop = min(KEYS, batch.position + 1u - tile * KEYS);
        for (var i = 0u; i < stop; i++) {
            let w = weight[i];
            let v = value_at(slot, kv_head, thread);
            slot = onward(slot, 1u);
            norm += w;
            o0 += w * v.a.x;
            o1 += w * v.a.y;
            o2 += w * v.a.z;
            o3 += w * v.a.w;
            o4 += w * v.b.x;
            o5 += w * v.b.y;
            o6 += w * v.b.z;
            o7 += w * v.b.w;
        }
    }
    let some = max(norm, Rows(1e-30));  // a split that sees no key weighs nothing in the reduction
    for (var row = 0u; row < ROWS && first_row + row < params.group; row++) {
        let head = kv_head * params.group + first_row + row;
        let all = array<Rows, 8>(o0, o1, o2, o3, o4, o5, o6, o7);
        for (var i = 0u; i < 8u; i++) {
            let value = one_of(all[i] / some, row);
            if (batch.splits == 1u) {
                attn_out[head * HALF * 2u + thread * 8u + i] = value;
            } else {
                pieces[(head * batch.splits + split) * (2u * HALF + 2u) + thread * 8u + i] = value;
            }
        }
        if (thread == 0u && batch.splits > 1u) {
            let end = (head * batch.splits + split + 1u) * (2u * HALF + 2u);
            pieces[end - 2u] = one_of(top, row);
            pieces[end - 1u] = one_of(norm, row);
        }
    }
}
