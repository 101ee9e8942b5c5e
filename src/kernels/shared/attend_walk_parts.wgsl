// Constants, workgroup memory, products, masks and weights of attend_walk, ROWS queries at a time.
override UNITS: u32 = 8u;     // HALF / 4: loads of a key or a value
override WIDTH: u32 = 64u;    // elements of a head, 8 * UNITS
override LANES: u32 = 4u;     // values that are added up side by side
override THREADS: u32 = 8u;   // a thread for four loads of each of them
override CHUNKS: u32 = 1u;    // workgroups that share a key/value head's queries
override ROOM: u32 = 256u;    // keys of a split, at most; 32 * THREADS, at least
const KEYS: u32 = 8u;         // keys per tile: a split begins at a multiple of that
const HIDDEN: f32 = -1e30;    // stands for minus infinity, which WGSL may assume away

var<workgroup> query: array<Rows, WIDTH>;
var<workgroup> scores: array<Rows, ROOM>;   // of a key; in the end, what each thread adds to the output
var<workgroup> tops: array<Rows, THREADS>;  // largest score among a thread's keys; in the end, its norm

// Eight neighbouring elements of the queries, or of the output, each with a name of its own.
struct Unit {
    a: Rows,
    b: Rows,
    c: Rows,
    d: Rows,
    e: Rows,
    f: Rows,
    g: Rows,
    h: Rows,
}

// Of the queries; behind their end, nothing.
fn queries_at(unit: u32) -> Unit {
    let i = min(unit, UNITS - 1u) * 8u;
    let some = select(0.0, 1.0, unit < UNITS);
    return Unit(
        query[i] * some, query[i + 1u] * some, query[i + 2u] * some, query[i + 3u] * some,
        query[i + 4u] * some, query[i + 5u] * some, query[i + 6u] * some, query[i + 7u] * some,
    );
}

fn product(q: Unit, load: vec4<u32>) -> Rows {
    let k = first4(load);
    let l = last4(load);
    return q.a * k.x + q.b * k.y + q.c * k.z + q.d * k.w + q.e * l.x + q.f * l.y + q.g * l.z + q.h * l.w;
}

fn plus(o: Unit, w: Rows, load: vec4<u32>) -> Unit {
    let v = first4(load);
    let u = last4(load);
    return Unit(
        o.a + w * v.x, o.b + w * v.y, o.c + w * v.z, o.d + w * v.w,
        o.e + w * u.x, o.f + w * u.y, o.g + w * u.z, o.h + w * u.w,
    );
}

fn keep(at: u32, o: Unit) {
    scores[at] = o.a;
    scores[at + 1u] = o.b;
    scores[at + 2u] = o.c;
    scores[at + 3u] = o.d;
    scores[at + 4u] = o.e;
    scores[at + 5u] = o.f;
    scores[at + 6u] = o.g;
    scores[at + 7u] = o.h;
}

// The slot `step` positions on; step < SLOTS.
fn onward(slot: u32, step: u32) -> u32 {
    let next = slot + step;
    return select(next, next - SLOTS, next >= SLOTS);
}

fn masked(score: Rows, key: u32, first_key: u32) -> Rows {
    return select(Rows(HIDDEN), score, key >= first_key && key <= batch.position);
}

// exp(score - top); what hardly counts is zero, lest sums have subnormals, which cost a CPU many times a product.
fn weigh(score: Rows, top: Rows) -> Rows {
    let below = score - top;
    return select(Rows(), exp(below), (below > Rows(-60.0)) & (score > Rows(HIDDEN)));
}
