//! `all-or-nothing`, `outcome`, `marker-epoch`, `hanging`: a transaction ends everywhere as it was
//! decided, offsets included, and as its producer was told; a coordinator that was superseded ends
//! nothing. `answered`: a coordinator's answer leaves when what it says is committed. `loaded`: it
//! acts on nothing else. `read-committed`: who reads committed data is given all of committed
//! transactions and nothing of others. `offset-regress`: the offset that counts never goes back.

use vltava::base::{Offset, PartitionId};

use crate::{
    net::Key,
    records::{self, Kind, Rec},
    txn_serve::Stable,
    world::World,
};

impl World {
    /// The next committed record of a log.
    pub fn take_in(&mut self, key: Key, offset: Offset, rec: Rec) {
        if let Err((id, text)) = self.oracle.histories.take_in(key, offset, rec) {
            self.violate(id, text);
        }
        if !matches!(rec.kind, Kind::InTxn | Kind::Commit { txn: Some(_), .. }) {
            self.take_newest(key, offset, rec);
        }
        for (offset, rec) in std::mem::take(&mut self.oracle.histories.counted) {
            self.take_newest(key, offset, rec);
        }
    }

    /// A coordinator says that something is so which it wrote at `offset`.
    pub fn check_answered(
        &mut self,
        b: usize,
        topic: &str,
        partition: PartitionId,
        offset: Offset,
    ) {
        let image = self.quorum.image().clone();
        let Some(id) = image.topics().id_of(topic) else { return };
        let committed = self.oracle.committed_end((id, partition));
        // A log that went offline after the write cannot be looked at.
        if committed <= offset && self.is_readable(b) {
            let text = format!(
                "broker {b} answers by {topic}-{partition} at {offset}, which is committed to \
                 {committed}"
            );
            self.violate("answered", text);
        }
    }

    /// A coordinator acts on what it has loaded up to `end`: another leader could take back what is
    /// not committed.
    pub fn check_loaded(&mut self, b: usize, topic: &str, partition: PartitionId, end: Offset) {
        let Some(id) = self.quorum.image().topics().id_of(topic) else { return };
        let committed = self.oracle.committed_end((id, partition));
        if committed < end {
            let text = format!("broker {b} loads {topic}-{partition} to {end} of {committed}");
            self.violate("loaded", text);
        }
    }

    /// A producer is told how its transaction ended.
    pub fn check_told(&mut self, txn: u64, commit: bool) {
        if let Err((id, text)) = self.oracle.histories.tell(txn, commit) {
            self.violate(id, text);
        }
    }

    /// A reader of committed data at `position` is given this. Where it goes on.
    pub fn check_stable(&mut self, key: Key, position: Offset, given: &Stable) -> Offset {
        let found = match records::decode(&given.bytes) {
            Ok(found) => found,
            Err(e) => {
                self.violate("read-committed", format!("{key:?} from {position}: {e}"));
                return position;
            }
        };
        let mut aborted = given.aborted.clone();
        aborted.sort_by_key(|(_, first)| *first);
        aborted.reverse();
        let (mut skipped, mut next) = (Vec::new(), position);
        for (offset, rec) in found {
            while aborted.last().is_some_and(|(_, first)| *first <= offset) {
                skipped.extend(aborted.pop().map(|(producer, _)| producer));
            }
            if let Kind::Marker { commit: false, .. } = rec.kind {
                skipped.retain(|p| *p != rec.producer);
            }
            if offset < position {
                continue;
            }
            if offset != next {
                let text = format!("{key:?}: a reader at {next} is given {offset}");
                self.violate("read-committed", text);
            }
            next = offset + 1;
            if rec.kind != Kind::InTxn {
                continue;
            }
            let shown = !skipped.contains(&rec.producer);
            let log = self.oracle.histories.logs.entry(key).or_default();
            match log.decided.get(&offset).copied() {
                Some(fate) if fate != shown => {
                    let text = format!("{key:?} at {offset}: shown {shown}, committed {fate}");
                    self.violate("read-committed", text);
                }
                Some(_) => {}
                // The snapshot of a log that was stopped cleanly does not say which of its markers
                // were behind the high watermark, as in Kafka: they count at once. That is harmless
                // as long as the transaction ends that way.
                None => _ = log.foretold.insert(offset, shown),
            }
        }
        next
    }

    pub fn check_histories_at_the_end(&mut self) {
        if let Err((id, text)) = self.oracle.histories.at_the_end() {
            self.violate(id, text);
        }
    }
}
