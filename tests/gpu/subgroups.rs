//! Exchange within subgroups: its start-up test, and devices that would fail it.

use bise::kernels;
use bise::reference;

use super::common::{Runner, bytes};

/// Sums of neighbours are what the twin says, where the device has subgroups; and a device whose subgroups are
/// smaller than it says is found out.
#[test]
fn subgroups() {
    let Some(mut runner) = Runner::open() else { return };
    let fold = runner.fold();
    if fold == 0 {
        let chosen = kernels::subgroups::choose(&runner.gpu, &mut runner.kernels);
        assert_eq!(pollster::block_on(chosen).unwrap(), 0, "sums meet in workgroup memory");
        return;
    }
    let values: Vec<f32> = (0..64).map(|thread| (thread * 37 % 64) as f32).collect();
    for fold in [4, fold].into_iter().filter(|each| *each <= fold) {
        let mut want = vec![0.0; 64 * (1 + fold.ilog2() as usize)];
        let contents = [bytes(&values), bytes(&want)];
        let got = runner.run(kernels::subgroups::kernel(64, fold), &contents, [1, 1, 1]);
        reference::subgroups::subgroups(fold, &values, &mut want);
        assert_eq!(got[0], want, "{fold}");
        let mut off = want.clone();
        reference::subgroups::subgroups(2 * fold, &values, &mut off);
        assert_ne!(got[0], off, "{fold}");
    }
    let mut kernels = bise::gpu::Kernels::default();
    let holds = |kernels: &mut _, fold| {
        pollster::block_on(kernels::subgroups::holds(&runner.gpu, kernels, fold)).unwrap()
    };
    assert!(holds(&mut kernels, fold));
    assert_eq!(pollster::block_on(kernels::subgroups::choose(&runner.gpu, &mut kernels)).unwrap(), fold);
    // Software adapters have subgroups of one size: twice as many threads are not in one.
    if runner.gpu.tier().software {
        assert!(!holds(&mut kernels, 2 * fold));
    }
}

/// What devices would find that lay threads out in subgroups of eight in another way than one after the other.
#[test]
fn other_layouts_of_subgroups_are_refused() {
    let fold = 8;
    let values: Vec<f32> = (0..32).map(|thread| (thread * thread + 1) as f32).collect();
    // `place`: where a thread lies, as number of its subgroup times eight and number within it.
    let found = |place: &dyn Fn(usize) -> usize| {
        let mut at = [0; 32];
        (0..32).for_each(|thread| at[place(thread)] = thread);
        let from = |values: &[f32], step: usize| -> Vec<f32> {
            (0..32).map(|thread| values[at[place(thread) ^ step]]).collect()
        };
        let mut sums = values.clone();
        for step in [4, 2, 1] {
            let others = from(&sums, step);
            sums.iter_mut().zip(others).for_each(|(sum, other)| *sum += other);
        }
        [sums, from(&values, 1), from(&values, 2), from(&values, 4)].concat()
    };
    let holds = |found: &[f32]| kernels::subgroups::are_neighbours(fold, &values, found);
    let right = found(&|thread| thread);
    let mut twin = vec![0.0; right.len()];
    reference::subgroups::subgroups(fold, &values, &mut twin);
    assert_eq!(right, twin);
    assert!(holds(&right));
    // Bits the other way round, where the sums of all eight are right; every fourth thread; two fours laid into one
    // another; a value that is missing.
    let reversed = found(&|thread| thread & !7 | (thread & 1) << 2 | thread & 2 | (thread & 4) >> 2);
    assert_eq!(reversed[..32], right[..32]);
    let strided = found(&|thread| thread % 4 * 8 + thread / 4);
    let halves = found(&|thread| thread & !7 | (thread & 3) << 1 | (thread & 4) >> 2);
    for wrong in [&reversed, &strided, &halves, &right[..96].to_vec()] {
        assert!(!holds(wrong), "{wrong:?}");
    }
}
