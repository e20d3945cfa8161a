//! How members give records back, or are done with them (`SharePartition.acknowledge`,
//! `releaseAcquiredRecords`). Pure.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    partition::{SharePartition, WriteNo, kept},
    runs::{Pending, RecordState},
    settings::ShareSettings,
};
use crate::base::{ErrorCode, Mutant, Now, Offset, mutant};

/// What a member says of records (`AcknowledgeType.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckType {
    /// There is no record at the offset.
    Gap,
    /// It is done.
    Accept,
    /// Somebody else is to get it.
    Release,
    /// Nobody is to get it.
    Reject,
    /// The member needs more time.
    Renew,
}

impl AckType {
    /// The type with this number.
    #[must_use]
    pub const fn from_id(id: i8) -> Option<Self> {
        match id {
            0 => Some(Self::Gap),
            1 => Some(Self::Accept),
            2 => Some(Self::Release),
            3 => Some(Self::Reject),
            4 => Some(Self::Renew),
            _ => None,
        }
    }
}

/// What a member says of the records from `first` to `last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AckBatch {
    /// Offset of the first record.
    pub first: Offset,
    /// Offset of the last record, inclusive.
    pub last: Offset,
    /// One type for all of them, or one for each offset.
    pub types: Vec<AckType>,
}

impl AckBatch {
    /// Whether it can be read: a request that fails this is at fault as a whole
    /// (`KafkaApis.validateAcknowledgementBatches`).
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Some(span) = self.last.checked_sub(self.first) else { return false };
        let each = i64::try_from(self.types.len()).unwrap_or(i64::MAX);
        self.first >= 0 && span >= 0 && (each == 1 || (each > 1 && span == each - 1))
    }

    /// Runs of offsets from `from` on of which the same is said.
    fn parts(&self, from: Offset) -> Vec<(Offset, Offset, AckType)> {
        let mut out: Vec<(Offset, Offset, AckType)> = Vec::new();
        if let [all] = self.types[..] {
            return vec![(from, self.last, all)];
        }
        for (at, kind) in (self.first..=self.last).zip(&self.types) {
            match out.last_mut() {
                _ if at < from => {}
                Some((_, to, last)) if last == kind => *to = at,
                _ => out.push((at, at, *kind)),
            }
        }
        out
    }
}

impl SharePartition {
    /// Takes over what `member` says of records that it has, all or nothing. What changed counts
    /// when the returned write has succeeded; `None`: nothing is to be written.
    ///
    /// # Errors
    /// `InvalidRecordState` for records that the member does not have, or of which it has spoken
    /// already; `InvalidRequest` for records that were never handed out.
    pub fn acknowledge(
        &mut self,
        member: &Arc<str>,
        acks: &[AckBatch],
        settings: &ShareSettings,
        now: Now,
    ) -> Result<Option<WriteNo>, ErrorCode> {
        let mut spoken_to = Offset::MIN;
        for ack in acks.iter().filter(|a| a.last >= self.start) {
            if !ack.is_sound() {
                return Err(ErrorCode::InvalidRequest);
            }
            if ack.first <= spoken_to {
                return Err(ErrorCode::InvalidRecordState);
            }
            spoken_to = ack.last;
            self.check(member, ack, settings)?;
        }
        let (mut writes, start) = (false, self.start);
        for ack in acks.iter().filter(|a| a.last >= start) {
            for (first, last, kind) in ack.parts(ack.first.max(start)) {
                let to = match kind {
                    AckType::Accept => RecordState::Acknowledged,
                    AckType::Gap | AckType::Reject => RecordState::Archived,
                    AckType::Release => RecordState::Available,
                    AckType::Renew => {
                        self.renew(first, last, settings, now);
                        continue;
                    }
                };
                writes |= self.change(member, first, last, to, settings);
            }
            self.runs.join(ack.first.max(start), ack.last, &self.batches);
        }
        let waits = writes && !mutant(Mutant::ShareAckBeforeWrite);
        Ok(waits.then_some(self.writes.next))
    }

    /// Gives back all that `member` has, as its session ended. `None`: it had nothing.
    pub fn release(&mut self, member: &Arc<str>, settings: &ShareSettings) -> Option<WriteNo> {
        let (first, last) = (self.start, self.next);
        let to = RecordState::Available;
        self.change(member, first, last, to, settings).then_some(self.writes.next)
    }

    /// Whether `member` has all of those records that are not below the start offset.
    fn check(
        &self,
        member: &Arc<str>,
        ack: &AckBatch,
        settings: &ShareSettings,
    ) -> Result<(), ErrorCode> {
        let first = ack.first.max(self.start);
        let Some((from, _)) = self.runs.0.range(..=first).next_back() else {
            return Err(ErrorCode::InvalidRecordState);
        };
        let known_to = self.runs.0.range(..=ack.last).next_back().map(|(_, run)| run.last);
        if known_to.is_none_or(|to| to < ack.last) {
            return Err(ErrorCode::InvalidRequest);
        }
        let spoken_of = self.runs.0.range(*from..=ack.last).filter(|(_, r)| r.last >= first);
        let has = |member: &Arc<str>, of: Option<&Arc<str>>| of.is_some_and(|m| m == member);
        for (_, run) in spoken_of {
            if !run.is_held() || !has(member, run.member.as_ref()) {
                return Err(ErrorCode::InvalidRecordState);
            }
        }
        if !settings.renews && ack.types.contains(&AckType::Renew) {
            return Err(ErrorCode::InvalidRecordState);
        }
        Ok(())
    }

    fn renew(&mut self, first: Offset, last: Offset, settings: &ShareSettings, now: Now) {
        let deadline = now.mono.after_ms(i64::from(settings.lock_duration_ms));
        for (_, run) in self.runs.within(first, last) {
            run.deadline = deadline;
        }
        self.earliest = self.earliest.min(deadline);
    }

    /// Changes what `member` has of the records from `first` to `last`, pending a write. Tells
    /// whether there was something to change.
    fn change(
        &mut self,
        member: &Arc<str>,
        first: Offset,
        last: Offset,
        to: RecordState,
        settings: &ShareSettings,
    ) -> bool {
        let (write, limit) = (self.writes.next, settings.delivery_count_limit);
        let mut changed = Vec::new();
        for (at, run) in self.runs.within(first, last) {
            if !run.is_held() || run.member.as_ref().is_none_or(|m| m != member) {
                continue;
            }
            run.state = if to == RecordState::Available { run.given_back(limit) } else { to };
            let Some(member) = run.member.take() else { continue };
            run.pending = Some(Pending { write, member, delivery_limit: limit });
            changed.push(kept(at, run));
        }
        let some = !changed.is_empty();
        self.writes.queued.append(&mut changed);
        some
    }

    /// How many records each member has, for tests and inspection.
    #[must_use]
    pub fn held(&self) -> BTreeMap<Arc<str>, i64> {
        let mut out = BTreeMap::new();
        for (first, run) in self.runs.0.iter().filter(|(_, run)| run.is_held()) {
            if let Some(member) = &run.member {
                *out.entry(Arc::clone(member)).or_insert(0) += run.last - first + 1;
            }
        }
        out
    }
}
