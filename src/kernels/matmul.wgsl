// y = x W^T for many tokens (prefill): a workgroup computes TOKENS tokens by ROWS rows, a thread 4
// by 4 of them in registers; DEPTH vec4 of columns of x and of W, unpacked, lie in workgroup memory
// at a time. An element's sum runs over the columns in one order whatever the batch and the tile.
override ACROSS: u32 = 16u;  // threads along the rows
override DOWN: u32 = 8u;     // threads along the tokens
override DEPTH: u32 = 8u;    // vec4 of columns in a tile, a multiple of 4
override STRIDE: u32 = 9u;   // vec4 between rows in workgroup memory
override THREADS: u32 = ACROSS * DOWN;
override ROWS: u32 = 4u * ACROSS;
override TOKENS: u32 = 4u * DOWN;

var<workgroup> x_tile: array<vec4<f32>, TOKENS * STRIDE>;
var<workgroup> w_tile: array<vec4<f32>, ROWS * STRIDE>;

@compute @workgroup_size(THREADS)
fn matmul(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token0 = wid.y * TOKENS;
    let row0 = wid.x * ROWS;
    let tokens = select(batch.tokens, 1u, params.single == 1u);
    let tx = thread % ACROSS;
    let ty = thread / ACROSS;
    let loads_per_tile = DEPTH / QUARTERS;
    let depth = params.loads * QUARTERS;  // vec4 of columns in all
    var sum: array<vec4<f32>, 4>;         // by token; component: row

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
            let row = row0 + r;
            let inside = row < params.rows && load < params.loads;
            var packed = vec4<u32>();
            var scale = 1.0;
            if (inside) {
                packed = weights[row * params.loads + load];
                if (BLOCKS == 1u) {
                    scale = scales[row * params.scale_blocks + load / params.loads_per_block];
                }
            }
            for (var q = 0u; q < QUARTERS; q++) {
                w_tile[r * STRIDE + c * QUARTERS + q] = unpack4(packed, q) * scale;
            }
        }
        workgroupBarrier();
        for (var c = 0u; c < DEPTH; c++) {
            let w0 = w_tile[tx * STRIDE + c];
            let w1 = w_tile[(tx + ACROSS) * STRIDE + c];
            let w2 = w_tile[(tx + 2u * ACROSS) * STRIDE + c];
            let w3 = w_tile[(tx + 3u * ACROSS) * STRIDE + c];
            for (var i = 0u; i < 4u; i++) {
                let v = x_tile[(ty + DOWN * i) * STRIDE + c];
                sum[i] += vec4<f32>(dot(w0, v), dot(w1, v), dot(w2, v), dot(w3, v));
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let token = token0 + ty + DOWN * i;
        for (var j = 0u; j < 4u; j++) {
            let row = row0 + tx + ACROSS * j;
            if (token < tokens && row < params.rows) {
                write_y(token, row, sum[i][j]);
            }
        }
    }
}
