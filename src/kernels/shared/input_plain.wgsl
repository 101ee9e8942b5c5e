// What a matrix-vector product takes in: x as it is.
fn share_squares(token: u32, lane: u32, thread: u32) {}

fn join_squares(lane: u32, thread: u32) {}

fn inverse_rms(first: u32, count: u32) -> f32 {
    return 1.0;
}
