// attend_one for adapters that compute on the CPU, where every value that is loaded costs as much as a dozen
// products, wherever it lies, and a division by what is no constant many more. A workgroup serves ROWS
// queries of a key/value head and one split of the cache, in two walks: over its keys, a thread for each, 32
// elements of the queries in registers at a time; then over its values, a thread for 32 elements of each. What
// is loaded besides is a score for 16 words of keys, and one for 16 of values. No barrier lies inside a loop:
// around one, llvmpipe keeps in memory what else is in registers, and all its loads take half as long again.
@compute @workgroup_size(THREADS)
fn attend_one(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let kv_head = wid.x / CHUNKS;
    let split = wid.y;
    let heads = params.kv_heads * params.group;
    let first_row = (wid.x % CHUNKS) * ROWS;
    let first_key = batch.position - min(batch.position, params.window - 1u);
    let start = (first_key / KEYS + split * batch.tiles_per_split) * KEYS;
    let stop = min(batch.tiles_per_split * KEYS, batch.position + 1u - start);

    for (var i = thread; i < HALF; i += THREADS) {
        let turn = rope[i] * params.scale;
        for (var row = 0u; row < ROWS; row++) {
            // Queries past the end repeat the last one and are not written.
            let head = kv_head * params.group + min(first_row + row, params.group - 1u);
            let a = qkv[head * WIDTH + i];
            let b = qkv[head * WIDTH + i + HALF];
            set_query(i, row, a * turn.x - b * turn.y);
            set_query(i + HALF, row, b * turn.x + a * turn.y);
        }
    }
    if (split + 1u == batch.splits) {
        let key = (heads + kv_head) * WIDTH;
        let value = key + params.kv_heads * WIDTH;
        let slot = batch.position % SLOTS;
        for (var u = thread; u < UNITS; u += THREADS) {
            store_key(slot, kv_head, u, rotated4(key, u * 8u), rotated4(key, u * 8u + 4u));
            store_value(slot, kv_head, u, plain4(value + u * 8u), plain4(value + u * 8u + 4u));
        }
    }
    storageBarrier();
    workgroupBarrier();

    var top = Rows(HIDDEN);
    for (var unit = 0u; unit < UNITS; unit += 4u) {
        // Past the end the last load is taken again, and the query there is zero.
        let unit1 = min(unit + 1u, UNITS - 1u);
        let unit2 = min(unit + 2u, UNITS - 1u);
        let unit3 = min(unit + 3u, UNITS - 1u);
        let q0 = queries_at(unit);
        let q1 = queries_at(unit + 1u);
        let q2 = queries_at(unit + 2u);
        let q3 = queries_at(unit + 3u);
        let last = unit + 4u >= UNITS;
        var slot = (start + thread) % SLOTS;
        for (var key = thread; key < stop; key += THREADS) {
            let row = row_of(slot, kv_head);
            slot = onward(slot, THREADS % SLOTS);
            var score = (product(q0, key_load(row + unit)) + product(q1, key_load(row + unit1))
                + product(q2, key_load(row + unit2)) + product(q3, key_load(row + unit3))) * key_scale(row);
            if (unit > 0u) {
                score += scores[key];
            }
            score = masked(score, start + key, first_key);
            scores[key] = score;
            top = max(top, select(Rows(HIDDEN), score, last));
        }
    }
    tops[thread] = top;
    workgroupBarrier();
    for (var i = 0u; i < THREADS; i++) {
        top = max(top, tops[i]);
    }

    let lane = thread % LANES;
    let unit = thread / LANES * 4u;
    let unit1 = min(unit + 1u, UNITS - 1u);
    let unit2 = min(unit + 2u, UNITS - 1u);
    let unit3 = min(unit + 3u, UNITS - 1u);
    var norm = Rows();
    var o0 = Unit();
    var o1 = Unit();
    var o2 = Unit();
    var o3 = Unit();
    var slot = (start + lane) % SLOTS;
    for (var key = lane; key < stop; key += LANES) {
        var w = weigh(scores[key], top);
        let row = row_of(slot, kv_head);
        slot = onward(slot, LANES % SLOTS);
        norm += w;
        w *= value_scale(row);
        o0 = plus(o0, w, value_load(row + unit));
        o1 = plus(o1, w, value_load(row + unit1));
        o2 = plus(o2, w, value_load(row + unit2));
        o3 = plus(o3, w, value_load(row + unit3));
    }
    workgroupBarrier();  // scores have been read, and the largest of them
    tops[thread] = norm;
    keep(thread * 32u, o0);
    keep(thread * 32u + 8u, o1);
    keep(thread * 32u + 16u, o2);
    keep(thread * 32u + 24u, o3);
    workgroupBarrier();
    norm = Rows();
    for (var i = 0u; i < LANES; i++) {
        norm += tops[i];
    }
    let some = max(norm, Rows(1e-30));  // a split that sees no key weighs nothing in the reduction
    let whole = batch.splits == 1u;
    let pitch = select(batch.splits * (WIDTH + 2u), WIDTH, whole);
    let out = (kv_head * params.group + first_row) * pitch + split * (WIDTH + 2u);
    let rows = min(ROWS, params.group - first_row);
    for (var i = thread; i < WIDTH; i += THREADS) {
        var sum = Rows();
        for (var k = 0u; k < LANES; k++) {
            sum += scores[(i / 32u * LANES + k) * 32u + i % 32u];
        }
        sum /= some;
        for (var row = 0u; row < rows; row++) {
            if (whole) {
                attn_out[out + row * pitch + i] = one_of(sum, row);
            } else {
                pieces[out + row * pitch + i] = one_of(sum, row);
            }
        }
    }
    if (thread == 0u && !whole) {
        for (var row = 0u; row < rows; row++) {
            pieces[out + row * pitch + WIDTH] = one_of(top, row);
            pieces[out + row * pitch + WIDTH + 1u] = one_of(norm, row);
        }
    }
}
