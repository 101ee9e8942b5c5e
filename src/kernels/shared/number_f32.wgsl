// What a matrix-matrix product multiplies.
alias number = f32;

fn numbers(v: vec4<f32>) -> vec4<f32> {
    return v;
}
