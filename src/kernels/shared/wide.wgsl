// 64-bit numbers as (low, high).
fn add(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let low = a.x + b.x;
    return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn subtract(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}

fn less(a: vec2<u32>, b: vec2<u32>) -> bool {
    return a.y < b.y || (a.y == b.y && a.x < b.x);
}

fn product(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let p = a1 * b0;
    let q = a0 * b1 + ((a0 * b0) >> 16u) + (p & 0xffffu);
    return vec2<u32>(a * b, a1 * b1 + (p >> 16u) + (q >> 16u));
}

// The high half of total * fraction, plus 1: the least sum that makes up this fraction.
fn share(total: vec2<u32>, fraction: vec2<u32>) -> vec2<u32> {
    let lowest = vec2<u32>(product(total.x, fraction.x).y, 0u);
    let p = add(product(total.x, fraction.y), lowest);
    let q = add(product(total.y, fraction.x), vec2<u32>(p.x, 0u));
    let high = add(product(total.y, fraction.y), vec2<u32>(p.y, 0u));
    return add(add(high, vec2<u32>(q.y, 0u)), vec2<u32>(1u, 0u));
}
