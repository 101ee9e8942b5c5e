// Keys -> one token, in one workgroup: the best one, or one drawn from the likeliest. What stays under
// top_k and top_p is a beginning of the order by key, and of equal keys by id; its end is searched, and
// what is drawn is searched by id.
@group(0) @binding(0) var<uniform> choice: Choice;
@group(0) @binding(1) var<storage, read> powers: array<u32>;           // (256) 2^(31 - i / 256)
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;       // (quads)
@group(0) @binding(3) var<storage, read> bests: array<vec4<u32>>;      // (groups) of sample_adjust
@group(0) @binding(4) var<storage, read_write> history: array<u32>;    // (vocab)
@group(0) @binding(5) var<storage, read_write> ids: array<u32>;        // (max_batch) the next pass embeds the first
@group(0) @binding(6) var<storage, read_write> chosen: array<u32>;     // (4) id, first id that is not finite, its bits

override WG: u32 = 256u;
var<workgroup> best: vec4<u32>;

// Key and id of the last token that stays: that of the lowest ids among equal keys.
fn cut(s: Search, top: f32, lane: u32) -> vec2<u32> {
    let last = search(s, top, lane);
    var each = 1u;
    if (s.weigh) {
        each = weight(top, last.place);
    }
    if (less(subtract(last.sum, last.need), vec2<u32>(each, 0u))) {
        return vec2<u32>(last.place, select(NONE, s.cut.y, last.place == s.cut.x));
    }
    let tie = search(Search(true, s.weigh, last.place, 0u, s.cut, last.need, vec2<u32>()), top, lane);
    return vec2<u32>(last.place, choice.vocab - tie.place);
}

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
    var id = most.y;
    if (choice.greedy == 0u) {
        let top = logit_of(most.x);
        let nothing = vec2<u32>();
        var last = vec2<u32>(0u, NONE);
        if (choice.top_k > 0u && choice.top_k < choice.vocab) {
            last = cut(Search(false, false, 0u, 0u, last, vec2<u32>(choice.top_k, 0u), nothing), top, lane);
        }
        if ((choice.top_p_low & choice.top_p_high) != NONE) {
            let fraction = vec2<u32>(choice.top_p_low, choice.top_p_high);
            last = cut(Search(false, true, 0u, 0u, last, nothing, fraction), top, lane);
        }
        let draw = vec2<u32>(choice.draw_low, choice.draw_high);
        id = choice.vocab - search(Search(true, true, 0u, choice.min_weight, last, nothing, draw), top, lane).place;
    }
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
