//! The draft: the committed image, and the records that the commands of this round want on top.
//! Thrown away if the quorum does not commit it. Uses `metadata`.

use std::sync::Arc;

use crate::base::limits::METADATA_BATCH_BYTES_MAX;
use crate::base::{ErrorCode, Offset};
use crate::metadata::{Delta, Image, Record, record};

use super::command::Refusal;

/// Records in the making. Later commands of the same round see what earlier ones wrote.
#[derive(Debug)]
pub struct Draft {
    delta: Delta,
    records: Vec<Record>,
    /// How many records each group has; a group is committed as a whole.
    groups: Vec<usize>,
    bytes: usize,
}

impl Draft {
    /// Nothing yet on top of `image`.
    #[must_use]
    pub fn new(image: &Arc<Image>) -> Self {
        Self { delta: Delta::new(image), records: Vec::new(), groups: Vec::new(), bytes: 0 }
    }

    /// The image with all that was written.
    #[must_use]
    pub const fn image(&self) -> &Image {
        self.delta.image()
    }

    /// What was written, as a difference.
    #[must_use]
    pub const fn delta(&self) -> &Delta {
        &self.delta
    }

    /// What was written.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The records' encoded size in bytes, or a little more. A driver stops adding commands well
    /// before [`METADATA_BATCH_BYTES_MAX`].
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was written as entries of at most `max_bytes`, cut between groups only: an entry
    /// is larger if one group is. To be proposed in this order, all or a prefix of them.
    #[must_use]
    pub fn into_entries(self, max_bytes: usize) -> Vec<Vec<Record>> {
        if self.bytes <= max_bytes {
            return if self.records.is_empty() { Vec::new() } else { vec![self.records] };
        }
        let (mut out, mut entry, mut size) = (Vec::new(), Vec::new(), 0);
        let mut rest = self.records.into_iter();
        for len in self.groups {
            let group: Vec<Record> = rest.by_ref().take(len).collect();
            let bytes: usize = group.iter().map(record::encoded_len).sum();
            if !entry.is_empty() && size + bytes > max_bytes {
                out.push(std::mem::take(&mut entry));
                size = 0;
            }
            entry.extend(group);
            size += bytes;
        }
        out.push(entry);
        out
    }

    /// Writes one record, which may be committed apart from those before and after it.
    pub(super) fn push(&mut self, record: Record) {
        self.bytes += record::encoded_len(&record);
        self.groups.push(1);
        self.replay(record);
    }

    /// Writes records that are committed as a whole.
    ///
    /// # Errors
    /// They do not fit into one entry; nothing was written.
    pub(super) fn push_group(&mut self, records: Vec<Record>) -> Result<(), Refusal> {
        let bytes: usize = records.iter().map(record::encoded_len).sum();
        if bytes > METADATA_BATCH_BYTES_MAX {
            let text = "Unable to perform excessively large batch operation.";
            return Err(Refusal::new(ErrorCode::PolicyViolation, text));
        }
        if records.is_empty() {
            return Ok(());
        }
        self.bytes += bytes;
        self.groups.push(records.len());
        for record in records {
            self.replay(record);
        }
        Ok(())
    }

    fn replay(&mut self, record: Record) {
        let offset: Offset = self.delta.base().position.offset + 1;
        let result = self.delta.replay(&record, offset);
        // The controller decided it on this very image: a record that does not fit is a bug, and
        // proposing it would stop every node.
        assert!(result.is_ok(), "record {record:?} does not fit: {result:?}");
        self.records.push(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Uuid;

    fn topic(name: &str, id: u8) -> Record {
        Record::Topic { name: name.into(), id: Uuid([id; 16]) }
    }

    #[test]
    fn entries_are_cut_between_groups() {
        let mut draft = Draft::new(&Arc::new(Image::default()));
        draft.push(topic("a", 1));
        draft.push_group(vec![topic("b", 2), topic("c", 3)]).unwrap();
        draft.push(topic("d", 4));
        let one = record::encoded_len(&topic("a", 1));
        let sizes: Vec<_> = draft.into_entries(one * 2).iter().map(Vec::len).collect();
        assert_eq!(sizes, [1, 2, 1]);
    }

    #[test]
    fn a_group_that_no_entry_holds_is_refused() {
        let mut draft = Draft::new(&Arc::new(Image::default()));
        let long = "x".repeat(METADATA_BATCH_BYTES_MAX);
        let refusal = draft.push_group(vec![topic(&long, 1)]).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::PolicyViolation);
        assert!(draft.is_empty());
    }
}
