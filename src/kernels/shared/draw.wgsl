// A token drawn from the likeliest. What stays under top_k and top_p is a beginning of the order by key, and of
// equal keys by id; its end is searched, and what is drawn is searched by id.
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

fn drawn(most: vec4<u32>, lane: u32) -> u32 {
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
    return choice.vocab - search(Search(true, true, 0u, choice.min_weight, last, nothing, draw), top, lane).place;
}
