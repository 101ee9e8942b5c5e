// Finds the place at which a sum over the tokens, in the order of their places, reaches what is needed:
// digit by digit from the highest. A round sums counts or weights by the digit, for the tokens that share
// the digits above, and one thread finds the digit at which enough is together. Sums are of integers, so
// that threads may add in any order. For sample_pick, whose bindings and WG it uses.
override DIGIT: u32 = 8u;   // bits that a round finds
override BINS: u32 = 256u;  // 2^DIGIT

// Sums of the bits 0 to 10, 11 to 21 and 22 to 31 of what is added: none overflows below 2^20 tokens.
var<workgroup> low: array<atomic<u32>, BINS>;
var<workgroup> middle: array<atomic<u32>, BINS>;
var<workgroup> high: array<atomic<u32>, BINS>;
var<workgroup> end: Found;

// How far a search has come: the digits found, and what is still needed of the sum at them.
struct Found {
    place: u32,
    need: vec2<u32>,
    sum: vec2<u32>,
}

struct Search {
    by_id: bool,          // places are ids from the last to the first, else keys
    weigh: bool,          // tokens count by weight, else each as 1
    tie: u32,             // only tokens of this key; 0: all
    least: u32,           // weights below count nothing
    cut: vec2<u32>,       // key and id of the last token that takes part
    need: vec2<u32>,      // the sum to reach; 0: a share of all there is
    fraction: vec2<u32>,  // which share
}

fn weight(top: f32, key: u32) -> u32 {
    let gap = top * 0.5 - logit_of(key) * 0.5;
    if (gap > choice.limit) {
        return 0u;
    }
    let exponent = u32(gap * choice.scale);
    let power = powers[(exponent >> 18u) & 255u];
    let z = (((exponent >> 2u) & 0xffffu) * 45426u) >> 16u;
    let smaller = z - ((z * z) >> 25u);
    let whole = power - (((power >> 16u) * smaller) >> 8u) - (((power & 0xffffu) * smaller) >> 24u);
    return select(0u, whole >> ((exponent >> 26u) & 31u), exponent < 0x80000000u);
}

fn sum_of(bin: u32) -> vec2<u32> {
    let m = atomicLoad(&middle[bin]);
    let h = atomicLoad(&high[bin]);
    let upper = add(vec2<u32>(m << 11u, m >> 21u), vec2<u32>(h << 22u, h >> 10u));
    return add(vec2<u32>(atomicLoad(&low[bin]), 0u), upper);
}

// The digit, from the greatest on, at which the need is met.
fn step(at: Found, fraction: vec2<u32>, shift: u32, width: u32) -> Found {
    var need = at.need;
    if ((need.x | need.y) == 0u) {
        var total = vec2<u32>();
        for (var bin = 0u; bin < (1u << width); bin++) {
            total = add(total, sum_of(bin));
        }
        need = share(total, fraction);
    }
    var bin = (1u << width) - 1u;
    var sum = sum_of(bin);
    while (bin > 0u && less(sum, need)) {
        need = subtract(need, sum);
        bin -= 1u;
        sum = sum_of(bin);
    }
    return Found(at.place | (bin << shift), need, sum);
}

fn search(s: Search, top: f32, lane: u32) -> Found {
    var at = Found(0u, s.need, vec2<u32>());
    var shift = select(32u, 32u - countLeadingZeros(choice.vocab), s.by_id);
    while (shift > 0u) {
        let width = min(shift, DIGIT);
        shift -= width;
        for (var bin = lane; bin < BINS; bin += WG) {
            atomicStore(&low[bin], 0u);
            atomicStore(&middle[bin], 0u);
            atomicStore(&high[bin], 0u);
        }
        workgroupBarrier();
        for (var quad = lane; quad < choice.quads; quad += WG) {
            let four = keys[quad];
            for (var c = 0u; c < 4u; c++) {
                let key = four[c];
                let id = quad * 4u + c;
                let place = select(key, choice.vocab - id, s.by_id);
                let behind = key < s.cut.x || (key == s.cut.x && id > s.cut.y);
                let elsewhere = ((place ^ at.place) >> shift) >> width;
                if (key == 0u || behind || elsewhere != 0u || (s.tie != 0u && key != s.tie)) {
                    continue;
                }
                var value = 1u;
                if (s.weigh) {
                    value = weight(top, key);
                }
                let bin = (place >> shift) & ((1u << width) - 1u);
                if (value >= max(s.least, 1u)) {
                    atomicAdd(&low[bin], value & 0x7ffu);
                    if (value > 0x7ffu) {
                        atomicAdd(&middle[bin], (value >> 11u) & 0x7ffu);
                        atomicAdd(&high[bin], value >> 22u);
                    }
                }
            }
        }
        workgroupBarrier();
        if (lane == 0u) {
            end = step(at, s.fraction, shift, width);
        }
        at = workgroupUniformLoad(&end);
    }
    return at;
}
