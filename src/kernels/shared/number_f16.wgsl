// What a matrix-matrix product multiplies: f16, of which a GPU that has them may do twice as many, and which take
// half the workgroup memory. Four products are summed in f16, those sums in f32. Weights are exact: as the fast
// decoder of F8_E4M3 leaves them they are at most 1.75, so that four products with MOST are still finite.
alias number = f16;

const MOST: f32 = 9000.0;

fn numbers(v: vec4<f32>) -> vec4<f16> {
    return vec4<f16>(clamp(v, vec4<f32>(-MOST), vec4<f32>(MOST)));
}
