// X[t] = table[ids[t]], for the ids whose row lies in this buffer.
// One thread per 16-byte load of a row, neighbouring threads on neighbouring loads.
struct Params {
    first_row: u32,        // row of the table at which this buffer starts
    rows: u32,             // rows in this buffer
    loads: u32,            // 16-byte loads per row
    pitch: u32,            // vec4 between rows of X
    scale_blocks: u32,     // scales per row; 0: none
    loads_per_block: u32,  // loads that share a scale
    width: u32,            // columns
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<u32>;             // (T)
@group(0) @binding(2) var<storage, read> weights: array<vec4<u32>>;   // (rows, loads)
@group(0) @binding(3) var<storage, read> scales: array<f32>;          // (rows, scale_blocks)
@group(0) @binding(4) var<storage, read_write> x: array<vec4<f32>>;   // (T, pitch)

@compute @workgroup_size(64)
fn embed(@builtin(global_invocation_id) gid: vec3<u32>) {
    let load = gid.x;
    let token = gid.y;
    let id = ids[token];
    // An id below first_row wraps around and fails the same comparison.
    let row = id - params.first_row;
    if (load >= params.loads || row >= params.rows) {
        return;
    }
    var scale = UNPACK_SCALE;
    if (params.scale_blocks > 0u) {
        // A row's only scale holds to its end, even where its last load is not full.
        let block = min(load / params.loads_per_block, params.scale_blocks - 1u);
        scale *= scales[row * params.scale_blocks + block];
    }
    let packed = weights[row * params.loads + load];
    for (var q = 0u; q < QUARTERS; q++) {
        // Padding columns are zero in the table and stay zero in X.
        x[token * params.pitch + load * QUARTERS + q] = unpack4(packed, q) * scale;
    }
}
