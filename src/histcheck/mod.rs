//! The history checker: what clients, nodes and faults did, line by line, and the proof that a
//! cluster kept its promises. Pure: takes lines, gives a verdict. Uses `base` for nothing but its
//! place in the order of rooms; `cli/histcheck.rs` reads the files.
//!
//! Lines are taken one at a time and thrown away; what stays is 72 bytes a send, 8 bytes an offset
//! and a bit an offset for each reader that must see all, and a few dozen bytes for each delivery and
//! acknowledgement of a share group (of records in a row) and each operation on the metadata. The
//! order of the lines matters only within one process (a consumer's polls, a nemesis' faults), so
//! that each process may write a file of its own.

mod checker;
mod cluster;
mod compaction;
mod event;
mod excerpt;
mod groups;
mod metadata;
mod offsets;
mod orders;
mod retention;
mod settle;
mod share;
mod txns;
mod verdict;

#[cfg(test)]
mod admin_tests;
#[cfg(test)]
mod share_tests;
#[cfg(test)]
mod tests;

pub use checker::Checker;
pub use excerpt::excerpt;
pub use verdict::{Point, Verdict, Violation, Window};

/// Why a history cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Not an event of the documented shape.
    #[error("not an event: {0}")]
    Shape(#[from] serde_json::Error),
    /// A field holds what it cannot hold.
    #[error("{field}: {value}: {rule}")]
    Field {
        /// The field's path.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        rule: &'static str,
    },
    /// Two sends of one value: nothing can be said about where it belongs.
    #[error("producer {producer} sent two records with one value (or n {n} twice)")]
    SentTwice {
        /// The producer of the second.
        producer: String,
        /// Its number there.
        n: u64,
    },
    /// More distinct names than are counted.
    #[error("more than {0} distinct names")]
    Names(usize),
}
