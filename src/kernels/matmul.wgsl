// y = x W^T for many tokens (prefill): a workgroup computes T * DOWN tokens by R * ACROSS rows, a thread T by
// R of them in registers. How it walks the columns: shared/walk_tiles.wgsl, shared/walk_rows.wgsl.
override ACROSS: u32 = 8u;  // threads along the rows
override DOWN: u32 = 8u;    // threads along the tokens
override UPPER: u32 = 4u * ACROSS;  // rows between a thread's first and second four

fn packed_at(_upper: bool, row: u32, load: u32) -> vec4<u32> {
    return weights[row * params.loads + load];
}

fn scale_at(_upper: bool, row: u32, load: u32) -> f32 {
    return scales[row * params.scale_blocks + load / params.loads_per_block];
}

fn write_rows(token: u32, row: u32, sums: vec4<f32>) {
    for (var j = 0u; j < 4u; j++) {
        if (row + ACROSS * j < params.rows) {
            write_y(token, row + ACROSS * j, sums[j]);
        }
    }
}

fn write_token(tokens: u32, token: u32, row: u32, low: vec4<f32>, high: vec4<f32>) {
    if (token < tokens) {
        write_rows(token, row, low);
        if (R == 8u) {
            write_rows(token, row + UPPER, high);
        }
    }
}

@compute @workgroup_size(THREADS)
fn matmul(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let tokens = select(batch.tokens, 1u, params.single == 1u);
    walk(wid.y * TOKENS, wid.x * ROWS, tokens, thread);
    write_sums(tokens, wid.y * TOKENS + thread / ACROSS, DOWN, wid.x * ROWS + thread % ACROSS);
}
