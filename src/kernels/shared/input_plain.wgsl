// What a matrix-vector product takes in: x as it is.
const NORM: u32 = 0u;

fn share_of_squares(token: u32, lane: u32) -> f32 {
    return 0.0;
}

fn inverse_rms(square: f32) -> f32 {
    return 1.0;
}
