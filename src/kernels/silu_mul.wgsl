// Mlp = silu(Mlp) * up, element by element: the activation after two prefill products.
struct Params {
    pitch: u32,  // vec4 per row of both
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> up: array<vec4<f32>>;         // (T, pitch)
@group(0) @binding(2) var<storage, read_write> mlp: array<vec4<f32>>;  // (T, pitch)

@compute @workgroup_size(64)
fn silu_mul(@builtin(global_invocation_id) gid: vec3<u32>) {
    if (gid.x >= params.pitch) {
        return;
    }
    let at = gid.y * params.pitch + gid.x;
    let gate = mlp[at];
    // exp(85) is still finite, and WGSL may assume that nothing is infinite.
    mlp[at] = gate / (1.0 + exp(-max(gate, vec4<f32>(-85.0)))) * up[at];
}
