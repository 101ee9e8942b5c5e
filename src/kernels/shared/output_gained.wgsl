// What a matrix-vector product leaves besides y, for the norm behind it: y * gain, and the squares of SPAN rows
// of y each (shared/input_scaled.wgsl). Rows of other parts of W begin at multiples of SPAN.
@group(0) @binding(6) var<storage, read> gain: array<f32>;           // (y_pitch) the norm's weight
@group(0) @binding(7) var<storage, read_write> gained: array<f32>;   // (T, y_pitch)
@group(0) @binding(8) var<storage, read_write> squares: array<f32>;  // (T, 4 * ceil(y_pitch / (4 * SPAN)))

override SPAN: u32 = 4u;  // at most the rows of a workgroup

var<workgroup> tails: array<f32, WG>;

// `row`: the lane's in this part of W; `value`: of y there, 0 where there is none.
fn leave(token: u32, row: u32, value: f32, thread: u32) {
    if (thread % LANES < 4u && row < params.rows) {
        let column = params.first_row + row;
        gained[token * params.y_pitch + column] = value * gain[column];
    }
    tails[thread] = value * value;
    workgroupBarrier();
    // The first thread of so many groups.
    if (thread % (SPAN / 4u * LANES) == 0u && row < params.rows) {
        var square = 0.0;
        for (var i = 0u; i < SPAN; i++) {
            square += tails[thread + i / 4u * LANES + i % 4u];
        }
        let pitch = (params.y_pitch / 4u + SPAN - 1u) / SPAN * 4u;
        squares[token * pitch + (params.first_row + row) / SPAN] = square;
    }
}
