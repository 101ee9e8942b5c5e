// A cache of f16, read in words of two elements. Rows are keys, or values, of one head.
fn key_word(row: u32, word: u32) -> u32 {
    return key_cache[row * HALF + word];
}

fn scaled_by_key(score: f32, row: u32) -> f32 {
    return score;
}

fn value_pair(row: u32, word: u32) -> vec2<f32> {
    return unpack2x16float(value_cache[row * HALF + word]);
}
