// What a matrix-vector product leaves besides y, for the norm behind it: y * gain, and the squares of each four
// rows of y (shared/input_scaled.wgsl). Rows of other parts of W begin at multiples of four.
@group(0) @binding(6) var<storage, read> gain: array<f32>;           // (y_pitch) the norm's weight
@group(0) @binding(7) var<storage, read_write> gained: array<f32>;   // (T, y_pitch)
@group(0) @binding(8) var<storage, read_write> squares: array<f32>;  // (T, y_pitch / 4)

// `row`: the lane's in this part of W; `value`: of y there, 0 where there is none.
fn leave(token: u32, row: u32, value: f32, thread: u32) {
    let at = token * params.y_pitch + params.first_row + row;
    if (thread % LANES < 4u && row < params.rows) {
        gained[at] = value * gain[params.first_row + row];
    }
    let square = of_four(value * value, thread);
    if (thread % LANES == 0u && row < params.rows) {
        squares[at / 4u] = square;
    }
}
