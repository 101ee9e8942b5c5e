// Sums of a thread of a matrix-matrix product: R rows by T tokens, in registers. Each has a name: what is
// indexed by a loop that a driver does not unroll lies in memory (on lavapipe three times as slow).
override R: u32 = 8u;  // rows of a thread: 4 or 8
override T: u32 = 4u;  // tokens of a thread: 4 or 8

// By token; component: row. Low: the first four rows.
var<private> low0: vec4<f32>;
var<private> low1: vec4<f32>;
var<private> low2: vec4<f32>;
var<private> low3: vec4<f32>;
var<private> low4: vec4<f32>;
var<private> low5: vec4<f32>;
var<private> low6: vec4<f32>;
var<private> low7: vec4<f32>;
var<private> high0: vec4<f32>;
var<private> high1: vec4<f32>;
var<private> high2: vec4<f32>;
var<private> high3: vec4<f32>;
var<private> high4: vec4<f32>;
var<private> high5: vec4<f32>;
var<private> high6: vec4<f32>;
var<private> high7: vec4<f32>;

// Four columns: a, b: four rows each, v: four tokens. A vector times a matrix is its dot with each column.
fn add_first(a: mat4x4<f32>, b: mat4x4<f32>, v: mat4x4<f32>) {
    low0 += v[0] * a;
    low1 += v[1] * a;
    low2 += v[2] * a;
    low3 += v[3] * a;
    if (R == 8u) {
        high0 += v[0] * b;
        high1 += v[1] * b;
        high2 += v[2] * b;
        high3 += v[3] * b;
    }
}

fn add_second(a: mat4x4<f32>, b: mat4x4<f32>, v: mat4x4<f32>) {
    low4 += v[0] * a;
    low5 += v[1] * a;
    low6 += v[2] * a;
    low7 += v[3] * a;
    if (R == 8u) {
        high4 += v[0] * b;
        high5 += v[1] * b;
        high6 += v[2] * b;
        high7 += v[3] * b;
    }
}

// Hands every token's sums to the kernel; a thread's tokens are `down` apart.
fn write_sums(tokens: u32, token: u32, down: u32, row: u32) {
    write_token(tokens, token, row, low0, high0);
    write_token(tokens, token + down, row, low1, high1);
    write_token(tokens, token + 2u * down, row, low2, high2);
    write_token(tokens, token + 3u * down, row, low3, high3);
    if (T == 8u) {
        write_token(tokens, token + 4u * down, row, low4, high4);
        write_token(tokens, token + 5u * down, row, low5, high5);
        write_token(tokens, token + 6u * down, row, low6, high6);
        write_token(tokens, token + 7u * down, row, low7, high7);
    }
}
