// A cache of F8_E4M3, read in words of two elements as if it were of f16. Rows are keys, or values, of one
// head: whole pairs of words with four codes each, then the scale.
override ROW: u32 = ((HALF + 3u) / 4u + 1u) * 2u;

fn pair_of(codes: u32, word: u32) -> vec2<f32> {
    let four = unpack4(vec4<u32>(codes), 0u) * UNPACK_SCALE;
    return select(four.xy, four.zw, word % 2u == 1u);
}

// No code is below what f16 has of normal numbers.
fn key_word(row: u32, word: u32) -> u32 {
    return pack2x16float(pair_of(key_cache[row * ROW + word / 2u], word));
}

fn scaled_by_key(score: f32, row: u32) -> f32 {
    return score * bitcast<f32>(key_cache[row * ROW + ROW - 2u]);
}

fn value_pair(row: u32, word: u32) -> vec2<f32> {
    let scale = bitcast<f32>(value_cache[row * ROW + ROW - 2u]);
    return pair_of(value_cache[row * ROW + word / 2u], word) * scale;
}
