// Sums of a thread of attend_many where it computes on the CPU: structs, so that each has a name of its own.
override LANES: u32 = UNITS / 2u;  // threads along the keys, and along the elements

// Of one query: scores of 16 keys, LANES apart, or 16 elements of the output.
struct Sums {
    a: vec4<f32>,
    b: vec4<f32>,
    c: vec4<f32>,
    d: vec4<f32>,
}

// Of four queries.
struct Block {
    x: Sums,
    y: Sums,
    z: Sums,
    w: Sums,
}

// Four elements of 16 keys; a vector times a matrix is its dot with each column.
struct Keys {
    a: mat4x4<f32>,
    b: mat4x4<f32>,
    c: mat4x4<f32>,
    d: mat4x4<f32>,
}

fn firsts(k: array<vec4<u32>, 4>) -> mat4x4<f32> {
    return mat4x4<f32>(first4(k[0]), first4(k[1]), first4(k[2]), first4(k[3]));
}

fn lasts(k: array<vec4<u32>, 4>) -> mat4x4<f32> {
    return mat4x4<f32>(last4(k[0]), last4(k[1]), last4(k[2]), last4(k[3]));
}

// Where four keys lie, LANES apart.
fn places(key: u32, kv_head: u32) -> vec4<u32> {
    return vec4<u32>(
        place(key, kv_head), place(key + LANES, kv_head),
        place(key + 2u * LANES, kv_head), place(key + 3u * LANES, kv_head),
    );
}

fn keys_at(at: vec4<u32>, unit: u32) -> array<vec4<u32>, 4> {
    return array<vec4<u32>, 4>(key_at(at.x, unit), key_at(at.y, unit), key_at(at.z, unit), key_at(at.w, unit));
}

fn dots_of(s: Sums, q: vec4<f32>, k: Keys) -> Sums {
    return Sums(s.a + q * k.a, s.b + q * k.b, s.c + q * k.c, s.d + q * k.d);
}

// Adds four columns of scores; `at`: those of the queries.
fn add_dots(s: Block, at: vec4<u32>, k: Keys) -> Block {
    return Block(
        dots_of(s.x, qkv[at.x], k), dots_of(s.y, qkv[at.y], k),
        dots_of(s.z, qkv[at.z], k), dots_of(s.w, qkv[at.w], k),
    );
}

// Of the keys at four places.
fn scales_at(at: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(key_scale(at.x), key_scale(at.y), key_scale(at.z), key_scale(at.w));
}

fn seen_of(s: Sums, scales: Sums, key: u32, position: u32) -> Sums {
    let query = vec4<u32>(position);
    let keys = key + vec4<u32>(0u, LANES, 2u * LANES, 3u * LANES);
    return Sums(
        masked(s.a * scales.a, keys, query), masked(s.b * scales.b, keys + 4u * LANES, query),
        masked(s.c * scales.c, keys + 8u * LANES, query), masked(s.d * scales.d, keys + 12u * LANES, query),
    );
}

// Scores, or HIDDEN.
fn seen(s: Block, scales: Sums, key: u32, at: vec4<u32>) -> Block {
    return Block(
        seen_of(s.x, scales, key, at.x), seen_of(s.y, scales, key, at.y),
        seen_of(s.z, scales, key, at.z), seen_of(s.w, scales, key, at.w),
    );
}

fn largest_of(s: Sums) -> f32 {
    let m = max(max(s.a, s.b), max(s.c, s.d));
    return max(max(m.x, m.y), max(m.z, m.w));
}

fn largest(s: Block) -> vec4<f32> {
    return vec4<f32>(largest_of(s.x), largest_of(s.y), largest_of(s.z), largest_of(s.w));
}

// Writes the weights of four keys, key by key.
fn keep_four(at: u32, top: vec4<f32>, x: vec4<f32>, y: vec4<f32>, z: vec4<f32>, w: vec4<f32>) {
    let scores = transpose(mat4x4<f32>(x, y, z, w));
    weight[at] = weigh(scores[0], top);
    weight[at + 2u * LANES] = weigh(scores[1], top);
    weight[at + 4u * LANES] = weigh(scores[2], top);
    weight[at + 6u * LANES] = weigh(scores[3], top);
}

fn keep(at: u32, top: vec4<f32>, s: Block) {
    keep_four(at, top, s.x.a, s.y.a, s.z.a, s.w.a);
    keep_four(at + 8u * LANES, top, s.x.b, s.y.b, s.z.b, s.w.b);
    keep_four(at + 16u * LANES, top, s.x.c, s.y.c, s.z.c, s.w.c);
    keep_four(at + 24u * LANES, top, s.x.d, s.y.d, s.z.d, s.w.d);
}

fn value_of(o: Sums, w: f32, v: Sums) -> Sums {
    return Sums(o.a + w * v.a, o.b + w * v.b, o.c + w * v.c, o.d + w * v.d);
}

fn add_value(o: Block, w: vec4<f32>, v: Sums) -> Block {
    return Block(value_of(o.x, w.x, v), value_of(o.y, w.y, v), value_of(o.z, w.z, v), value_of(o.w, w.w, v));
}

fn times_of(s: Sums, w: f32) -> Sums {
    return Sums(s.a * w, s.b * w, s.c * w, s.d * w);
}

fn times(s: Block, w: vec4<f32>) -> Block {
    return Block(times_of(s.x, w.x), times_of(s.y, w.y), times_of(s.z, w.z), times_of(s.w, w.w));
}

fn write_one(row: u32, last_row: u32, out: u32, o: Sums) {
    if (row <= last_row) {
        attn_out[out] = o.a;
        attn_out[out + 1u] = o.b;
        attn_out[out + 2u] = o.c;
        attn_out[out + 3u] = o.d;
    }
}

fn write(rows: vec4<u32>, last_row: u32, out: vec4<u32>, o: Block) {
    write_one(rows.x, last_row, out.x, o.x);
    write_one(rows.y, last_row, out.y, o.y);
    write_one(rows.z, last_row, out.z, o.z);
    write_one(rows.w, last_row, out.w, o.w);
}
