// A cache of f16, read in loads of eight elements. Rows are keys, or values, of one head.
alias CacheLoad = vec4<u32>;
override ROW: u32 = UNITS;  // loads from one row to the next

fn key_load(at: u32) -> vec4<u32> {
    return key_cache[at];
}

fn value_load(at: u32) -> vec4<u32> {
    return value_cache[at];
}

// The first four elements of a load, and the others.
fn first4(load: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(load.x), unpack2x16float(load.y));
}

fn last4(load: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(load.z), unpack2x16float(load.w));
}

// What the elements of a row are still to be multiplied with.
fn key_scale(row: u32) -> f32 {
    return 1.0;
}

fn value_scale(row: u32) -> f32 {
    return 1.0;
}
