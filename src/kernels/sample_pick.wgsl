// Keys -> one token, in one workgroup: the best one, or one drawn from the likeliest. Which of them is a part of
// its own (shared/draw_none.wgsl, shared/draw.wgsl).
@group(0) @binding(0) var<uniform> choice: Choice;
@group(0) @binding(1) var<storage, read> powers: array<u32>;           // (256) 2^(31 - i / 256)
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;       // (quads)
@group(0) @binding(3) var<storage, read> bests: array<vec4<u32>>;      // (groups) of sample_adjust
@group(0) @binding(4) var<storage, read_write> history: array<u32>;    // (vocab)
@group(0) @binding(5) var<storage, read_write> ids: array<u32>;        // (max_batch) the next pass embeds the first
@group(0) @binding(6) var<storage, read_write> chosen: array<u32>;     // (4) id, first id that is not finite, its bits

override WG: u32 = 256u;
var<workgroup> best: vec4<u32>;

@compute @workgroup_size(WG)
fn sample_pick(@builtin(local_invocation_index) lane: u32) {
    if (lane == 0u) {
        var first = bests[0];
        for (var group = 1u; group < choice.groups; group++) {
            let next = bests[group];
            // Groups ascend by id, so that of equal keys the first stays.
            if (next.x > first.x) {
                first.x = next.x;
                first.y = next.y;
            }
            if (next.z < first.z) {
                first.z = next.z;
                first.w = next.w;
            }
        }
        best = first;
    }
    let most = workgroupUniformLoad(&best);
    var id = drawn(most, lane);
    if (lane == 0u) {
        // Where some logit is not finite, no token may be anything; the caller learns of it.
        id = min(id, choice.vocab - 1u);
        ids[0] = id;
        chosen[0] = id;
        chosen[1] = most.z;
        chosen[2] = most.w;
        if (choice.penalties == 1u) {
            history[id] = (history[id] | 1u) + 2u;
        }
    }
}
