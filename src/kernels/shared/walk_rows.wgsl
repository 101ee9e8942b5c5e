// Walks the columns of a matrix-matrix product without workgroup memory: a thread reads its own rows of W and
// unpacks a load once for its T tokens. For adapters that compute on the CPU, where workgroup memory is no
// nearer than any other and a barrier is dear; DOWN is 1 there. A sum runs over the columns in order, four at
// a time. On a GPU threads would read 16 bytes of different rows each: walk_tiles is for those.
override THREADS: u32 = ACROSS;
override ROWS: u32 = R * ACROSS;
override TOKENS: u32 = T * DOWN;

fn x_rows(at: vec4<u32>, k: u32) -> mat4x4<f32> {
    return mat4x4<f32>(x[at.x + k], x[at.y + k], x[at.z + k], x[at.w + k]);
}

// Four rows of a thread at one load.
struct Rows {
    packed: array<vec4<u32>, 4>,
    scales: vec4<f32>,
}

fn load_rows(upper: bool, rows: vec4<u32>, load: u32) -> Rows {
    var scales = vec4<f32>(1.0);
    if (BLOCKS == 1u) {
        scales = vec4<f32>(
            scale_at(upper, rows.x, load), scale_at(upper, rows.y, load),
            scale_at(upper, rows.z, load), scale_at(upper, rows.w, load),
        );
    }
    let packed = array<vec4<u32>, 4>(
        packed_at(upper, rows.x, load), packed_at(upper, rows.y, load),
        packed_at(upper, rows.z, load), packed_at(upper, rows.w, load),
    );
    return Rows(packed, scales);
}

fn unpack_rows(rows: Rows, q: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        unpack4(rows.packed[0], q) * rows.scales.x, unpack4(rows.packed[1], q) * rows.scales.y,
        unpack4(rows.packed[2], q) * rows.scales.z, unpack4(rows.packed[3], q) * rows.scales.w,
    );
}

fn walk(token0: u32, row0: u32, tokens: u32, thread: u32) {
    // Rows and tokens past the end read the last one and are not written.
    let four = vec4<u32>(0u, 1u, 2u, 3u);
    let low = min(row0 + thread + four * ACROSS, vec4<u32>(params.rows - 1u));
    let high = min(row0 + thread + UPPER + four * ACROSS, vec4<u32>(params.rows - 1u));
    let first = min(token0 + four, vec4<u32>(tokens - 1u)) * params.x_pitch;
    let second = min(token0 + four + 4u, vec4<u32>(tokens - 1u)) * params.x_pitch;
    for (var load = 0u; load < params.loads; load++) {
        let rows_a = load_rows(false, low, load);
        var rows_b = rows_a;
        if (R == 8u) {
            rows_b = load_rows(true, high, load);
        }
        for (var q = 0u; q < QUARTERS; q++) {
            let k = load * QUARTERS + q;
            let a = unpack_rows(rows_a, q);
            var b = a;
            if (R == 8u) {
                b = unpack_rows(rows_b, q);
            }
            add_first(a, b, x_rows(first, k));
            if (T == 8u) {
                add_second(a, b, x_rows(second, k));
            }
        }
    }
}
