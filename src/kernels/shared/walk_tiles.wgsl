// Walks the columns of a matrix-matrix product in tiles of workgroup memory: R * ACROSS rows of W, unpacked
// once for all tokens, and T * DOWN tokens of x. A sum runs over the columns in order, four at a time,
// whatever the batch and the tile.
//
// On a GPU: 16-byte loads of W and x; neighbouring threads take neighbouring loads of a row. Per four columns
// a thread reads R + T vec4 of workgroup memory for 4 * R * T multiply-adds (8 x 4: 10.7 for each, 8 x 8: 16);
// STRIDE is odd, so that 8 threads' vec4 lie in different banks. R * T sums and R + T vec4 are 80 to 130
// registers. Two barriers a tile; at most 15.4 KB of workgroup memory, two or more workgroups at a time.
override DEPTH: u32 = 8u;   // vec4 of columns in a tile, a multiple of 4
override STRIDE: u32 = 9u;  // vec4 between rows in workgroup memory
override THREADS: u32 = ACROSS * DOWN;
override ROWS: u32 = R * ACROSS;
override TOKENS: u32 = T * DOWN;

var<workgroup> x_tile: array<vec4<f32>, TOKENS * STRIDE>;
var<workgroup> w_tile: array<vec4<f32>, ROWS * STRIDE>;

fn w_rows(at: u32) -> mat4x4<f32> {
    let step = ACROSS * STRIDE;
    return mat4x4<f32>(w_tile[at], w_tile[at + step], w_tile[at + 2u * step], w_tile[at + 3u * step]);
}

fn x_rows(at: u32) -> mat4x4<f32> {
    let step = DOWN * STRIDE;
    return mat4x4<f32>(x_tile[at], x_tile[at + step], x_tile[at + 2u * step], x_tile[at + 3u * step]);
}

fn walk(token0: u32, row0: u32, tokens: u32, thread: u32) {
    let tx = thread % ACROSS;
    let ty = thread / ACROSS;
    let loads_per_tile = DEPTH / QUARTERS;
    let depth = params.loads * QUARTERS;  // vec4 of columns in all
    for (var k = 0u; k < depth; k += DEPTH) {
        for (var i = thread; i < TOKENS * DEPTH; i += THREADS) {
            let t = i / DEPTH;
            let c = i % DEPTH;
            var v = vec4<f32>();
            if (token0 + t < tokens && k + c < depth) {
                v = x[(token0 + t) * params.x_pitch + k + c];
            }
            x_tile[t * STRIDE + c] = v;
        }
        for (var i = thread; i < ROWS * loads_per_tile; i += THREADS) {
            let r = i / loads_per_tile;
            let c = i % loads_per_tile;
            let load = k / QUARTERS + c;
            let upper = r >= 4u * ACROSS;
            let row = row0 + select(r, r - 4u * ACROSS + UPPER, upper);
            var packed = vec4<u32>();
            var scale = 1.0;
            if (row < params.rows && load < params.loads) {
                packed = packed_at(upper, row, load);
                if (BLOCKS == 1u) {
                    scale = scale_at(upper, row, load);
                }
            }
            for (var q = 0u; q < QUARTERS; q++) {
                w_tile[r * STRIDE + c * QUARTERS + q] = unpack4(packed, q) * scale;
            }
        }
        workgroupBarrier();
        for (var c = 0u; c < DEPTH; c++) {
            let a = w_rows(tx * STRIDE + c);
            var b = a;
            if (R == 8u) {
                b = w_rows((tx + 4u * ACROSS) * STRIDE + c);
            }
            add_first(a, b, x_rows(ty * STRIDE + c));
            if (T == 8u) {
                add_second(a, b, x_rows((ty + 4u * DOWN) * STRIDE + c));
            }
        }
        workgroupBarrier();
    }
}
