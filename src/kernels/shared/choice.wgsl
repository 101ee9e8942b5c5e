// Options of a request and the draw of a step, for the kernels that choose a token; the arithmetic of
// src/steps/sampling.rs. A key orders as the logits do: greater for greater ones; 0: no token.
struct Choice {
    greedy: u32,       // 1: the largest logit; which of two kernels that takes, the host decides
    top_k: u32,        // 0: all
    top_p_low: u32,    // top_p in 2^-64, less one; all bits set: 1
    top_p_high: u32,
    min_weight: u32,
    bias: u32,         // 1: there is some
    penalties: u32,    // 1: there are some
    scale: f32,        // half a distance of logits -> exponent of a weight, in 2^-26
    limit: f32,        // beyond this half distance a weight is 0
    repetition: f32,   // factor on logits of seen tokens, 0 or less
    reciprocal: f32,   // and above 0
    most: f32,         // largest magnitude that the larger factor may meet
    frequency: f32,    // subtracted per occurrence in the output
    presence: f32,     // and once
    vocab: u32,
    quads: u32,        // keys / 4
    groups: u32,       // workgroups of sample_adjust
    zero: u32,         // 0, but only at run time
    draw_low: u32,     // in 2^-64
    draw_high: u32,
}

const NONE: u32 = 0xffffffffu;

fn key_of(bits: u32) -> u32 {
    let one_zero = select(bits, 0u, bits == 0x80000000u);
    return select(one_zero | 0x80000000u, ~one_zero, one_zero >= 0x80000000u);
}

fn logit_of(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, key >= 0x80000000u));
}
