//! Choosing a token on the GPU: each kernel against its twin, and both in a row against the sampler of the
//! CPU. All of it is exact: no tolerance anywhere.

use bise::kernels::sample_adjust::{self, Choice};
use bise::kernels::{Sizes, sample_pick};
use bise::reference;
use bise::steps::sampling::powers;
use bise::text::{Sampler, SamplerOptions};

use super::common::{Runner, bytes, uniform};
use crate::common::Random;

const VOCABS: [usize; 5] = [1, 31, 1025, 4001, 49_152];

fn one_of<T: Copy>(random: &mut Random, values: &[T]) -> T {
    values[random.below(values.len() as u64) as usize]
}

/// Logits from a few values, so that ties are common, or from a continuum, or as far apart as f32 goes.
fn random_logits(random: &mut Random, vocab: usize) -> Vec<f32> {
    match random.below(4) {
        0 => (0..vocab).map(|_| random.below(5) as f32 - 2.0).collect(),
        1 => (0..vocab).map(|_| one_of(random, &[f32::MAX, f32::MIN, 0.0, -0.0, 1.0, -2.5e-30])).collect(),
        _ => (0..vocab).map(|_| random.weight() * 9.0 + random.weight() * 3.0).collect(),
    }
}

fn random_options(random: &mut Random, vocab: usize) -> SamplerOptions {
    let bias = |random: &mut Random| (random.below(vocab as u64) as u32, random.weight() * 100.0);
    SamplerOptions {
        temperature: one_of(random, &[0.0, 0.3, 0.7, 1.0, 1.9, 1e-30]),
        top_k: one_of(random, &[0, 0, 1, 3, 40, vocab as u32, vocab as u32 + 9]),
        top_p: one_of(random, &[1.0, 0.95, 0.5, 0.01, 0.999]),
        min_p: one_of(random, &[0.0, 0.0, 0.05, 0.5, 1.0]),
        repetition_penalty: one_of(random, &[1.0, 1.3, 0.8, 1e-30, 1e30]),
        frequency_penalty: one_of(random, &[0.0, 0.7, -0.4]),
        presence_penalty: one_of(random, &[0.0, 1.1, -2.0]),
        logit_bias: (0..one_of(random, &[0, 0, 3])).map(|_| bias(random)).collect(),
        seed: random.next(),
    }
}

/// What the kernels keep from one step to the next, and what they said last.
struct OnDevice {
    sizes: Sizes,
    bias: Vec<f32>,
    history: Vec<u32>,
    keys: Vec<u32>,
    bests: Vec<[u32; 4]>,
    ids: Vec<u32>,
    chosen: Vec<u32>,
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

impl OnDevice {
    fn new(sampler: &Sampler, vocab: usize, prompt: &[u32], sizes: Sizes) -> OnDevice {
        let (mut bias, mut history) = (vec![0.0; vocab], vec![0; vocab]);
        sampler.bias().iter().for_each(|&(id, added)| bias[id as usize] = added);
        prompt.iter().for_each(|&id| history[id as usize] = 1);
        let groups = sample_adjust::grid(vocab as u32)[0] as usize;
        let (keys, bests) = (vec![9; vocab.next_multiple_of(16)], vec![[9; 4]; groups]);
        OnDevice { sizes, bias, history, keys, bests, ids: vec![9; 3], chosen: vec![9; 4] }
    }

    /// One step; each kernel must do to the bit what its twin does.
    fn step(&mut self, runner: &mut Runner, choice: &Choice, logits: &[f32], what: &dyn std::fmt::Debug) {
        let logits = bits(logits);
        let (mut keys, mut bests) = (self.keys.clone(), self.bests.clone());
        reference::sample_adjust::sample_adjust(
            choice,
            &logits,
            &self.bias,
            &self.history,
            &mut keys,
            &mut bests,
        );
        let contents = [
            uniform(choice),
            bytes(&logits),
            bytes(&self.bias),
            bytes(&self.history),
            bytes(&self.keys),
            bytes(&self.bests),
        ];
        let out = runner.run(sample_adjust::kernel(self.sizes), &contents, sample_adjust::grid(choice.vocab));
        assert!(bits(&out[0]) == keys, "{what:?}: other keys");
        assert_eq!(bits(&out[1]), bests.as_flattened(), "{what:?}");
        (self.keys, self.bests) = (keys, bests);

        let powers = powers();
        let (mut history, mut ids, mut chosen) =
            (self.history.clone(), self.ids.clone(), self.chosen.clone());
        reference::sample_pick::sample_pick(
            choice,
            &powers,
            &self.keys,
            &self.bests,
            &mut history,
            &mut ids,
            &mut chosen,
        );
        let contents = [
            uniform(choice),
            bytes(&powers),
            bytes(&self.keys),
            bytes(&self.bests),
            bytes(&self.history),
            bytes(&self.ids),
            bytes(&self.chosen),
        ];
        let out = runner.run(sample_pick::kernel(self.sizes, choice.rules.greedy == 1), &contents, [1, 1, 1]);
        assert_eq!((bits(&out[1]), bits(&out[2])), (ids.clone(), chosen.clone()), "{what:?}");
        assert!(bits(&out[0]) == history, "{what:?}: another history");
        (self.history, self.ids, self.chosen) = (history, ids, chosen);
    }
}

/// Every option, ties and extremes, at odd sizes: the kernels, their twins and the CPU's sampler choose the
/// same tokens, step after step, out of the same seed.
#[test]
fn tokens_are_those_of_the_cpu() {
    let Some(mut runner) = Runner::open() else { return };
    let mut drawn_apart = 0;
    for (vocab, cases) in VOCABS.into_iter().zip([4, 40, 40, 40, 24]) {
        for seed in 0..cases {
            let random = &mut Random::new(vocab as u64 * 1000 + seed);
            let options = random_options(random, vocab);
            let prompt: Vec<u32> = (0..random.below(6)).map(|_| random.below(vocab as u64) as u32).collect();
            let mut on_cpu = Sampler::new(options.clone(), vocab).unwrap();
            on_cpu.accept_prompt(&prompt).unwrap();
            let mut draws = on_cpu.clone();
            let mut on_device = OnDevice::new(&on_cpu, vocab, &prompt, Sizes::ALL[seed as usize % 2]);
            let fixed = random_logits(random, vocab);
            for step in 0..4 {
                // Half of them twice, so that penalties change what is chosen.
                let logits = if step % 2 == 0 { random_logits(random, vocab) } else { fixed.clone() };
                let draw = draws.next_draw();
                let choice = Choice::new(draws.rules(), vocab as u32, draw);
                let what = (vocab, seed, step, &options);
                on_device.step(&mut runner, &choice, &logits, &what);
                assert_eq!(on_device.chosen[0], on_cpu.sample(&logits).unwrap(), "{what:?}");
                // A negative control: another draw may choose another token.
                let other = Choice::new(draws.rules(), vocab as u32, !0 << 11);
                let before = on_device.chosen[0];
                let (mut history, mut ids, mut chosen) = (on_device.history.clone(), vec![0; 1], vec![0; 4]);
                let (keys, bests) = (&on_device.keys, &on_device.bests);
                reference::sample_pick::sample_pick(
                    &other,
                    &powers(),
                    keys,
                    bests,
                    &mut history,
                    &mut ids,
                    &mut chosen,
                );
                drawn_apart += usize::from(chosen[0] != before);
            }
        }
    }
    assert!(drawn_apart > 50, "only {drawn_apart} draws could have told a wrong one");
}

/// One place in a large vocabulary for every seed of a list, at a distribution that is nearly flat.
#[test]
fn every_seed_draws_as_on_the_cpu() {
    let Some(mut runner) = Runner::open() else { return };
    let vocab = 4001;
    let random = &mut Random::new(5);
    let logits: Vec<f32> = (0..vocab).map(|_| random.weight() * 0.5).collect();
    let mut distinct = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let options = SamplerOptions { seed, top_p: 0.9, top_k: 3000, ..Default::default() };
        let mut on_cpu = Sampler::new(options, vocab).unwrap();
        let mut draws = on_cpu.clone();
        let mut on_device = OnDevice::new(&on_cpu, vocab, &[], Sizes::Gpu);
        let draw = draws.next_draw();
        let choice = Choice::new(draws.rules(), vocab as u32, draw);
        on_device.step(&mut runner, &choice, &logits, &seed);
        assert_eq!(on_device.chosen[0], on_cpu.sample(&logits).unwrap(), "seed {seed}");
        distinct.insert(on_device.chosen[0]);
    }
    assert!(distinct.len() > 50, "{distinct:?}");
}

/// What is no finite number is named, with the lowest id, as the CPU names it.
#[test]
fn logits_that_are_not_finite_are_told() {
    let Some(mut runner) = Runner::open() else { return };
    for (at, value) in [(0, f32::NAN), (2050, f32::INFINITY), (4000, f32::NEG_INFINITY)] {
        let mut logits = vec![0.5; 4001];
        (logits[at], logits[4000]) = (value, f32::NEG_INFINITY);
        for temperature in [0.0, 1.0] {
            let sampler =
                Sampler::new(SamplerOptions { temperature, ..Default::default() }, logits.len()).unwrap();
            let mut on_device = OnDevice::new(&sampler, logits.len(), &[], Sizes::Cpu);
            let choice = Choice::new(sampler.rules(), logits.len() as u32, 1 << 63);
            on_device.step(&mut runner, &choice, &logits, &(at, temperature));
            assert_eq!(on_device.chosen[1..3], [at as u32, logits[at].to_bits()]);
        }
    }
}
