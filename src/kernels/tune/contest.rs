//! Who of some candidates is the fastest, by as few measurements as decide it.

use web_time::Duration;

/// Times that each candidate is measured, if it may win and there is time.
pub(super) const ROUNDS: u32 = 4;

/// What another choice must save to be taken instead of the usual one, per cent.
const MARGIN: u32 = 3;

/// Candidates that take so many times as long as the fastest are out of it.
const HOPELESS: u32 = 2;

/// A comparison. The first candidate is the usual one; those that are likelier to win come first.
pub(super) struct Contest {
    /// Of each candidate the least time, and how often it was measured.
    best: Vec<(Option<Duration>, u32)>,
}

impl Contest {
    pub fn new(candidates: usize) -> Contest {
        Contest { best: vec![(None, 0); candidates] }
    }

    /// The least time of any.
    fn least(&self) -> Option<Duration> {
        self.best.iter().filter_map(|(best, _)| *best).min()
    }

    /// Whose turn it is, with `left` time for all that is to come; `None` if the contest is over.
    pub fn next(&self, left: Duration) -> Option<usize> {
        let least = self.least();
        if least.unwrap_or_default() > left || left.is_zero() {
            return None;
        }
        let may_win = |best: &Option<Duration>| match (best, least) {
            (Some(best), Some(least)) => *best < least * HOPELESS,
            _ => true,
        };
        let running = || self.best.iter().enumerate().filter(|(_, (best, _))| may_win(best));
        if running().count() < 2 {
            return None;
        }
        let next = running().min_by_key(|(_, (_, times))| *times);
        next.filter(|(_, (_, times))| *times < ROUNDS).map(|(at, _)| at)
    }

    /// What a measurement gave.
    pub fn note(&mut self, at: usize, took: Duration) {
        if let Some((best, times)) = self.best.get_mut(at) {
            *best = Some(best.map_or(took, |best| best.min(took)));
            *times += 1;
        }
    }

    /// How many were compared with one another.
    pub fn compared(&self) -> u32 {
        let measured = self.best.iter().filter(|(best, _)| best.is_some()).count() as u32;
        if measured > 1 { measured } else { 0 }
    }

    /// The fastest of those that were measured, or the usual one unless another is clearly faster. `None` if
    /// nothing was compared.
    pub fn winner(&self) -> Option<usize> {
        let (usual, _) = self.best.first()?;
        let measured = self.best.iter().enumerate().filter_map(|(at, (best, _))| Some((at, (*best)?)));
        let (fastest, time) = measured.min_by_key(|(_, time)| *time)?;
        let is_faster = time * 100 < (*usual)? * (100 - MARGIN);
        (self.compared() > 0).then_some(if is_faster { fastest } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Runs a contest among candidates that always take so many milliseconds; whom it measured, and the winner.
    fn run(times: &[u64], mut left: Duration) -> (Vec<usize>, Option<usize>) {
        let (mut contest, mut turns) = (Contest::new(times.len()), Vec::new());
        while let Some(at) = contest.next(left) {
            let took = Duration::from_millis(times[at]);
            contest.note(at, took);
            turns.push(at);
            left = left.saturating_sub(took);
        }
        (turns, contest.winner())
    }

    #[test]
    fn another_choice_has_to_be_clearly_faster() {
        assert_eq!(run(&[100, 98, 120], LONG).1, Some(0));
        assert_eq!(run(&[100, 96, 90], LONG).1, Some(2));
        assert_eq!(run(&[], LONG), (vec![], None));
        assert_eq!(run(&[100], LONG), (vec![], None), "nothing to compare with");
    }

    #[test]
    fn candidates_take_turns() {
        assert_eq!(run(&[100, 98, 120], LONG).0, [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn the_hopeless_are_measured_once() {
        assert_eq!(run(&[100, 300, 90], LONG).0, [0, 1, 2, 0, 2, 0, 2, 0, 2]);
        assert_eq!(run(&[300, 100, 290], LONG), (vec![0, 1, 2], Some(1)), "one is left");
    }

    #[test]
    fn a_late_winner_drops_those_before() {
        assert_eq!(run(&[100, 110, 40], LONG), (vec![0, 1, 2], Some(2)));
    }

    #[test]
    fn what_was_measured_decides_when_time_is_out() {
        let ms = Duration::from_millis;
        assert_eq!(run(&[100, 80, 10, 10], ms(250)), (vec![0, 1], Some(1)), "no third one fits");
        assert_eq!(run(&[100, 80], ms(100)), (vec![0], None), "one alone decides nothing");
        assert_eq!(run(&[100, 80], Duration::ZERO), (vec![], None));
    }
}
