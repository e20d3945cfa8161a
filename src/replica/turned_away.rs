//! Producers whose batch was turned away for a reason that passes (a full disk, too few in sync)
//! while later batches of theirs were on the way already. Those do not follow what the log has, and
//! an idempotent client that is told so takes a new epoch and sends what is in doubt on *other*
//! partitions again: duplicates. It is told the reason instead, and tries all again in order. Pure.
//!
//! Only for a moment: what comes later than [`ON_THE_WAY`] was sent by a client that has given the
//! refused batch up, and has to learn that its sequence is broken.

use std::{collections::BTreeMap, time::Duration};

use super::answer::{Receipt, Refusal};
use crate::base::{ErrorCode, Mono};

/// Producers that are remembered for one partition.
const PRODUCERS_MAX: usize = 1000;

/// How long after a refusal a batch may arrive that was sent before the refusal was known.
const ON_THE_WAY: Duration = Duration::from_millis(500);

/// The producers of one partition that have to send a batch again, and what they were told.
#[derive(Debug, Default)]
pub(super) struct TurnedAway(BTreeMap<(i64, i16), (ErrorCode, Mono)>);

impl TurnedAway {
    /// What `outcome` of an append of `producer` (id and epoch) is to be told as.
    pub(super) fn tell(
        &mut self,
        producer: impl FnOnce() -> Option<(i64, i16)>,
        outcome: Result<Receipt, Refusal>,
        now: Mono,
    ) -> Result<Receipt, Refusal> {
        if outcome.is_ok() && self.0.is_empty() {
            return outcome;
        }
        let Some(producer) = producer() else { return outcome };
        let refusal = match outcome {
            Ok(receipt) => {
                self.0.remove(&producer);
                return Ok(receipt);
            }
            Err(refusal) => refusal,
        };
        match refusal.code {
            ErrorCode::KafkaStorageError | ErrorCode::NotEnoughReplicas => {
                self.remember(producer, refusal.code, now);
                Err(refusal)
            }
            ErrorCode::OutOfOrderSequenceNumber => {
                let recent = self.0.get(&producer).filter(|(_, at)| now.since(*at) <= ON_THE_WAY);
                Err(Refusal { code: recent.map_or(refusal.code, |(code, _)| *code), ..refusal })
            }
            _ => Err(refusal),
        }
    }

    fn remember(&mut self, producer: (i64, i16), code: ErrorCode, now: Mono) {
        self.0.insert(producer, (code, now));
        if self.0.len() > PRODUCERS_MAX {
            self.0.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Receipt =
        Receipt { base_offset: 1, last_offset: 1, log_append_time_ms: -1, log_start_offset: 0 };

    fn told(away: &mut TurnedAway, id: i64, outcome: Result<(), ErrorCode>) -> ErrorCode {
        let outcome = outcome.map(|()| DONE).map_err(Refusal::from);
        told_at(away, id, outcome, Mono(0))
    }

    fn told_at(
        away: &mut TurnedAway,
        id: i64,
        outcome: Result<Receipt, Refusal>,
        now: Mono,
    ) -> ErrorCode {
        away.tell(|| Some((id, 0)), outcome, now).map_or_else(|r| r.code, |_| ErrorCode::None)
    }

    #[test]
    fn what_follows_a_refused_batch_is_refused_for_its_reason() {
        let (full, gap) = (ErrorCode::KafkaStorageError, ErrorCode::OutOfOrderSequenceNumber);
        let mut away = TurnedAway::default();
        assert_eq!(told(&mut away, 7, Err(gap)), gap);
        assert_eq!(told(&mut away, 7, Err(full)), full);
        assert_eq!(told(&mut away, 7, Err(gap)), full);
        assert_eq!(told(&mut away, 8, Err(gap)), gap);
        assert_eq!(told(&mut away, 8, Ok(())), ErrorCode::None);
        assert_eq!(told(&mut away, 7, Err(gap)), full);
        assert_eq!(told(&mut away, 7, Ok(())), ErrorCode::None);
        assert_eq!(told(&mut away, 7, Err(gap)), gap);
        assert!(away.0.is_empty());
    }

    #[test]
    fn a_client_that_gave_the_batch_up_learns_of_the_gap() {
        let gap = || Err(Refusal::from(ErrorCode::OutOfOrderSequenceNumber));
        let mut away = TurnedAway::default();
        told(&mut away, 7, Err(ErrorCode::NotEnoughReplicas));
        let soon = Mono(0).after_ms(500);
        assert_eq!(told_at(&mut away, 7, gap(), soon), ErrorCode::NotEnoughReplicas);
        let late = Mono(0).after_ms(501);
        assert_eq!(told_at(&mut away, 7, gap(), late), ErrorCode::OutOfOrderSequenceNumber);
    }

    #[test]
    fn not_more_producers_are_remembered_than_the_bound() {
        let mut away = TurnedAway::default();
        for id in 0..2000 {
            told(&mut away, id, Err(ErrorCode::NotEnoughReplicas));
        }
        assert_eq!(away.0.len(), PRODUCERS_MAX);
    }
}
