// Parameters and bindings that matvec and matmul share: y = x W^T for the rows of W in one buffer.
struct Params {
    first_row: u32,        // column of y for the first row of W in this buffer
    rows: u32,             // rows of W in this buffer
    loads: u32,            // 16-byte loads per row of W
    x_pitch: u32,          // vec4 between rows of x
    y_pitch: u32,          // f32 between rows of y
    scale_blocks: u32,     // scales per row; 0: none
    loads_per_block: u32,  // loads that share a scale
    single: u32,           // 1: x and y have one row whatever the batch
    add: u32,              // 1: add to y (residual)
}

@group(0) @binding(0) var<uniform> batch: Batch;
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;         // (T, x_pitch)
@group(0) @binding(3) var<storage, read> weights: array<vec4<u32>>;   // (rows, loads)
@group(0) @binding(4) var<storage, read> scales: array<f32>;          // (rows, scale_blocks)
@group(0) @binding(5) var<storage, read_write> y: array<f32>;         // (T, y_pitch)

override BLOCKS: u32 = 0u;  // 1: several scales per row

// Returns what is there then.
fn write_y(token: u32, row: u32, sum: f32) -> f32 {
    var value = sum * UNPACK_SCALE;
    if (BLOCKS == 0u && params.scale_blocks == 1u) {
        value *= scales[row];
    }
    let at = token * params.y_pitch + params.first_row + row;
    if (params.add == 1u) {
        value += y[at];
    }
    y[at] = value;
    return value;
}
