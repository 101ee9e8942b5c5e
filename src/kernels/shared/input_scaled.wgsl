// What a matrix-vector product takes in behind a norm: x * gain / sqrt(mean(x^2) + EPSILON). The kernel that
// wrote x left x * gain, and a square for SPAN columns of x each: their sum is all that is missing, and the
// root of it comes behind the product.
@group(0) @binding(6) var<storage, read> squares: array<vec4<f32>>;  // (T, ceil(x_pitch / SPAN))

override WIDTH: f32 = 1.0;     // elements of x
override EPSILON: f32 = 1e-5;  // added to their mean square
override SPAN: u32 = 4u;       // columns to a square

var<workgroup> shares: array<f32, WG>;

// The lane's share of them.
fn share_squares(token: u32, lane: u32, thread: u32) {
    let count = (params.x_pitch + SPAN - 1u) / SPAN;
    var share = vec4<f32>();
    for (var i = lane; i < count; i += LANES) {
        share += squares[token * count + i];
    }
    shares[thread] = dot(share, vec4<f32>(1.0));
}

// To eight lanes of each group.
fn join_squares(lane: u32, thread: u32) {
    var share = 0.0;
    for (var i = lane; i < LANES; i += 8u) {
        share += shares[thread - lane + i];
    }
    shares[thread] = share;
}

fn inverse_rms(first: u32, count: u32) -> f32 {
    var sum = 0.0;
    for (var i = 0u; i < count; i++) {
        sum += shares[first + i];
    }
    return inverseSqrt(sum / WIDTH + EPSILON);
}
