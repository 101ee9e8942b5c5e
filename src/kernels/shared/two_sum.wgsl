// Sums in twice f32's precision, four side by side: a sum and what its roundings lost. Sums are opaque: algebra
// would find that nothing is ever lost. Where a compiler takes floats for real numbers, each step has to be; in joins,
// which are few, each step is.
override EACH: bool = true;  // whether each step of add_below and add_product is opaque

struct Sum {
    high: vec4<f32>,
    low: vec4<f32>,
}

// For any two (Knuth's TwoSum).
fn add(sum: Sum, p: vec4<f32>) -> Sum {
    let high = opaque4(sum.high + p, params.zero);
    let arrived = opaque4(high - sum.high, params.zero);
    let kept = opaque4(high - arrived, params.zero);
    let lost = opaque4(sum.high - kept, params.zero) + opaque4(p - arrived, params.zero);
    return Sum(high, sum.low + lost);
}

fn hidden(v: vec4<f32>) -> vec4<f32> {
    if (EACH) {
        return opaque4(v, params.zero);
    }
    return v;
}

// Where |sum.high| >= |p| (Dekker's Fast2Sum).
fn add_below(sum: Sum, p: vec4<f32>) -> Sum {
    let high = opaque4(sum.high + p, params.zero);
    let arrived = hidden(high - sum.high);
    return Sum(high, sum.low + hidden(p - arrived));
}

fn join(x: Sum, y: Sum) -> Sum {
    let sum = add(x, y.high);
    return Sum(sum.high, sum.low + y.low);
}
