// A cache of F8_E4M3, read in loads of eight elements. Rows are keys, or values, of one head: codes, then a
// load with the scale.
alias CacheLoad = vec2<u32>;
override ROW: u32 = UNITS + 1u;  // loads from one row to the next

fn key_load(at: u32) -> vec4<u32> {
    return key_cache[at].xxyy;
}

fn value_load(at: u32) -> vec4<u32> {
    return value_cache[at].xxyy;
}

// The first four elements of a load, and the others.
fn first4(load: vec4<u32>) -> vec4<f32> {
    return unpack4(load, 0u);
}

fn last4(load: vec4<u32>) -> vec4<f32> {
    return unpack4(load, 2u);
}

// What the elements of a row are still to be multiplied with.
fn key_scale(row: u32) -> f32 {
    return bitcast<f32>(key_cache[row + UNITS].x) * UNPACK_SCALE;
}

fn value_scale(row: u32) -> f32 {
    return bitcast<f32>(value_cache[row + UNITS].x) * UNPACK_SCALE;
}
