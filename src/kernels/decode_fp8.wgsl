// Unpacks 16-byte loads into f32: the start-up test of a weight decoder over all its codes.
@group(0) @binding(0) var<storage, read> codes: array<vec4<u32>>;          // (loads)
@group(0) @binding(1) var<storage, read_write> values: array<vec4<f32>>;   // (loads, QUARTERS)

@compute @workgroup_size(64)
fn decode_fp8(@builtin(global_invocation_id) gid: vec3<u32>) {
    if (gid.x < arrayLength(&codes)) {
        for (var q = 0u; q < QUARTERS; q++) {
            values[gid.x * QUARTERS + q] = unpack4(codes[gid.x], q) * UNPACK_SCALE;
        }
    }
}
