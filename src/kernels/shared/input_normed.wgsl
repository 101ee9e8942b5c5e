// What a matrix-vector product takes in: x * gain / sqrt(mean(x^2) + EPSILON), the root behind the product.
// The threads that share rows load all of x in any case: its squares cost no load, no pass and no barrier of
// their own, and gain, as short as x, comes from the caches.
@group(0) @binding(6) var<storage, read> gain: array<vec4<f32>>;  // (x_pitch) the norm's weight

override WIDTH: f32 = 1.0;     // elements of x
override EPSILON: f32 = 1e-5;  // added to their mean square

const NORM: bool = true;

var<workgroup> squares: array<f32, WG>;

fn gained(v: vec4<f32>, column: u32) -> vec4<f32> {
    return v * gain[column];
}

fn inverse_rms(sum: f32) -> f32 {
    return inverseSqrt(sum / WIDTH + EPSILON);
}
