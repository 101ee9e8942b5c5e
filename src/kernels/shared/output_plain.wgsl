// What a matrix-vector product leaves besides y: nothing.
fn leave(token: u32, row: u32, value: f32, thread: u32) {}
