// Constants, workgroup memory, products, masks and weights of attend_walk, ROWS queries at a time.
override UNITS: u32 = 8u;    // HALF / 4: loads of a key or a value, and threads
override CHUNKS: u32 = 1u;       // workgroups that share a key/value head's queries
override KEYS: u32 = 64u;    // keys per tile, 8 * UNITS
const HIDDEN: f32 = -1e30;   // stands for minus infinity, which WGSL may assume away

var<workgroup> query: array<Rows, KEYS>;   // a head has as many elements
var<workgroup> weight: array<Rows, KEYS>;  // exp(score - maximum)
var<workgroup> tops: array<Rows, UNITS>;   // largest score among a thread's keys

// Eight neighbouring elements of the queries.
struct Queries {
    a: array<Rows, 4>,
    b: array<Rows, 4>,
}

fn queries_at(unit: u32) -> Queries {
    let i = unit * 8u;
    return Queries(
        array<Rows, 4>(query[i], query[i + 1u], query[i + 2u], query[i + 3u]),
        array<Rows, 4>(query[i + 4u], query[i + 5u], query[i + 6u], query[i + 7u]),
    );
}

fn product(q: Queries, k: Eight) -> Rows {
    return q.a[0] * k.a.x + q.a[1] * k.a.y + q.a[2] * k.a.z + q.a[3] * k.a.w
        + q.b[0] * k.b.x + q.b[1] * k.b.y + q.b[2] * k.b.z + q.b[3] * k.b.w;
}

// The slot `step` positions on; step < SLOTS.
fn onward(slot: u32, step: u32) -> u32 {
    let next = slot + step;
    return select(next, next - SLOTS, next >= SLOTS);
}

fn masked(score: Rows, key: u32, first_key: u32) -> Rows {
    return select(Rows(HIDDEN), score, key >= first_key && key <= batch.position);
}

fn weigh(score: Rows, top: Rows) -> Rows {
    return select(Rows(), exp(score - top), score > Rows(HIDDEN));
}
