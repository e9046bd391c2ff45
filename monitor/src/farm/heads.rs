//! The times at which the recent head revisions were published, from which the lag in time is measured (W7).

use std::collections::VecDeque;

use bellwether_proto::revision::Number;

/// The number of remembered heads. The lag of a server further behind is counted on, see `Known::measure`.
const REMEMBERED: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Heads {
    /// Oldest first, sequences rising.
    recent: VecDeque<(Number, u64)>,
}

impl Heads {
    /// Adds the head `number`. Heads that are not older are forgotten, because a restored manager counts again.
    pub(super) fn push(&mut self, number: Number, time_ms: u64) {
        while self.recent.back().is_some_and(|(newest, _)| newest.sequence >= number.sequence) {
            self.recent.pop_back();
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((number, time_ms));
    }

    pub(super) fn last(&self) -> Option<Number> {
        self.recent.back().map(|(number, _)| *number)
    }

    pub(super) fn last_time_ms(&self) -> Option<u64> {
        self.recent.back().map(|(_, time_ms)| *time_ms)
    }

    /// The publishing time of the first remembered revision that a server at `at` lacks; none: it lacks none.
    pub(super) fn first_after_ms(&self, at: Option<Number>) -> Option<u64> {
        let have = at.map_or(0, |at| at.sequence);
        let next = self.recent.partition_point(|(number, _)| number.sequence <= have);
        self.recent.get(next).map(|(_, time_ms)| *time_ms)
    }
}

#[cfg(test)]
mod tests {
    use bellwether_proto::revision::Epoch;

    use super::*;

    fn number(sequence: u64) -> Number {
        Number { epoch: Epoch(1), sequence }
    }

    #[test]
    fn the_first_one_lacked_is_found_and_memory_is_bounded() {
        let mut heads = Heads::default();
        assert_eq!(heads.first_after_ms(None), None);
        for sequence in 1..=5_000 {
            heads.push(number(sequence), sequence * 10);
        }
        assert_eq!(heads.recent.len(), REMEMBERED);
        assert_eq!(heads.first_after_ms(Some(number(4_998))), Some(49_990));
        assert_eq!(heads.first_after_ms(Some(number(5_000))), None);
        assert_eq!(heads.first_after_ms(Some(number(1))), Some((5_000 - 1_023) * 10), "the oldest remembered");
    }

    #[test]
    fn a_head_that_goes_back_is_the_head() {
        let mut heads = Heads::default();
        (1..=9).for_each(|sequence| heads.push(number(sequence), sequence));
        heads.push(number(4), 100);
        assert_eq!((heads.last(), heads.last_time_ms()), (Some(number(4)), Some(100)));
        assert_eq!(heads.first_after_ms(Some(number(2))), Some(3));
    }
}
