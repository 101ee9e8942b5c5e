// The best token. Not a branch beside the draw: an adapter that computes on the CPU may run both sides of one, and
// takes long to compile the draw.
fn drawn(most: vec4<u32>, lane: u32) -> u32 {
    return most.y;
}
