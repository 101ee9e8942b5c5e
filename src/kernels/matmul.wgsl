// y = x W^T for many tokens (prefill): a workgroup computes 32 tokens by 64 rows, a thread 4 by 4
// of them in registers; 32 columns of x and of W, unpacked, lie in workgroup memory at a time.
// An element's sum runs over the columns in one order whatever the batch.
const TOKENS: u32 = 32u;   // tokens of a tile
const ROWS: u32 = 64u;     // rows of W in a tile
const DEPTH: u32 = 8u;     // vec4 of columns in a tile
const STRIDE: u32 = 9u;    // vec4 between rows in workgroup memory: odd, against bank conflicts
const THREADS: u32 = 128u; // 16 along the rows, 8 along the tokens

var<workgroup> x_tile: array<vec4<f32>, TOKENS * STRIDE>;
var<workgroup> w_tile: array<vec4<f32>, ROWS * STRIDE>;

@compute @workgroup_size(THREADS)
fn matmul(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token0 = wid.y * TOKENS;
    let row0 = wid.x * ROWS;
    let tokens = select(batch.tokens, 1u, params.single == 1u);
    let tx = thread % 16u;
    let ty = thread / 16u;
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
            let w1 = w_tile[(tx + 16u) * STRIDE + c];
            let w2 = w_tile[(tx + 32u) * STRIDE + c];
            let w3 = w_tile[(tx + 48u) * STRIDE + c];
            for (var i = 0u; i < 4u; i++) {
                let v = x_tile[(ty + 8u * i) * STRIDE + c];
                sum[i] += vec4<f32>(dot(w0, v), dot(w1, v), dot(w2, v), dot(w3, v));
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let token = token0 + ty + 8u * i;
        for (var j = 0u; j < 4u; j++) {
            let row = row0 + tx + 16u * j;
            if (token < tokens && row < params.rows) {
                write_y(token, row, sum[i][j]);
            }
        }
    }
}
