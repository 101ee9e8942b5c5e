// Bias and penalties on the logits, which become keys; the best token of each workgroup's 1024.
// Neighbouring threads take neighbouring tokens; one barrier, behind which one thread compares.
@group(0) @binding(0) var<uniform> choice: Choice;
@group(0) @binding(1) var<storage, read> logits: array<u32>;             // (vocab) bits of f32
@group(0) @binding(2) var<storage, read> bias: array<f32>;               // (vocab)
@group(0) @binding(3) var<storage, read> history: array<u32>;            // (vocab) 1 if seen, plus 2 per occurrence in the output
@group(0) @binding(4) var<storage, read_write> keys: array<u32>;         // (4 quads)
@group(0) @binding(5) var<storage, read_write> bests: array<vec4<u32>>;  // (groups) key, id, first id whose logit is not finite, its bits

const PER_GROUP: u32 = 1024u;
const LARGEST: f32 = 3.4028234663852886e38;

override WG: u32 = 64u;
var<workgroup> found: array<vec4<u32>, WG>;

// Keeps a product from being contracted with the sum that follows into one rounding.
fn rounded(v: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(v) ^ choice.zero);
}

fn adjusted(bits: u32, id: u32) -> u32 {
    var logit = bitcast<f32>(bits);
    if (choice.bias == 1u) {
        logit += bias[id];
    }
    if (choice.penalties == 1u) {
        let past = history[id];
        if (past > 0u) {
            let factor = select(choice.repetition, choice.reciprocal, logit > 0.0);
            if (factor > 1.0 && abs(logit) > choice.most) {
                logit = select(-LARGEST, LARGEST, logit > 0.0);
            } else {
                logit = rounded(logit * factor);
            }
            if (past > 1u) {
                logit -= rounded(rounded(choice.frequency * f32(past >> 1u)) + choice.presence);
            }
        }
    }
    return bitcast<u32>(logit);
}

@compute @workgroup_size(WG)
fn sample_adjust(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = wid.x * PER_GROUP;
    let end = min(first + PER_GROUP, choice.quads * 4u);
    var best = vec4<u32>(0u, NONE, NONE, 0u);
    for (var id = first + lane; id < end; id += WG) {
        var key = 0u;
        if (id < choice.vocab) {
            let bits = logits[id];
            if ((bits & 0x7f800000u) == 0x7f800000u) {
                // Ids ascend, so the first is the lowest.
                if (best.z == NONE) {
                    best.z = id;
                    best.w = bits;
                }
            } else {
                var wanted = bits;
                if (choice.bias + choice.penalties > 0u) {
                    wanted = adjusted(bits, id);
                }
                key = key_of(wanted);
            }
        }
        keys[id] = key;
        if (key > best.x) {
            best.x = key;
            best.y = id;
        }
    }
    found[lane] = best;
    workgroupBarrier();
    if (lane == 0u) {
        for (var other = 1u; other < WG; other++) {
            let theirs = found[other];
            if (theirs.x > best.x || (theirs.x == best.x && theirs.y < best.y)) {
                best.x = theirs.x;
                best.y = theirs.y;
            }
            if (theirs.z < best.z) {
                best.z = theirs.z;
                best.w = theirs.w;
            }
        }
        bests[wid.x] = best;
    }
}
