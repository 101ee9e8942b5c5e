// What a matrix-vector product takes in behind a norm: x * gain / sqrt(mean(x^2) + EPSILON). The kernel that
// wrote x left x * gain, and the squares of each four columns of x: their sum is all that is missing, and the
// root of it comes behind the product.
@group(0) @binding(6) var<storage, read> squares: array<vec4<f32>>;  // (T, x_pitch / 4)

override WIDTH: f32 = 1.0;     // elements of x
override EPSILON: f32 = 1e-5;  // added to their mean square

const NORM: u32 = 1u;

fn share_of_squares(token: u32, lane: u32) -> f32 {
    let count = params.x_pitch / 4u;
    var share = vec4<f32>();
    for (var i = lane; i < count; i += LANES) {
        share += squares[token * count + i];
    }
    return dot(share, vec4<f32>(1.0));
}

fn inverse_rms(square: f32) -> f32 {
    return inverseSqrt(square / WIDTH + EPSILON);
}
