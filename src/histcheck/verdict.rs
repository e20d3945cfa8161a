//! What the checker says: violations by point, what each points at, and the counts behind them.

use std::{collections::BTreeMap, fmt};

/// What a history can show to be wrong. The numbers are the points of the documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// An acknowledged record is gone.
    Lost = 1,
    /// A record that nobody sent, or that was sent elsewhere.
    Phantom = 2,
    /// A record whose producer was told that it certainly failed.
    FailedAppears = 3,
    /// One offset, two records.
    Inconsistent = 4,
    /// One record, two offsets.
    Duplicate = 5,
    /// A producer's records out of its order.
    Order = 6,
    /// A consumer was moved over records or back, or a group's commit skipped some.
    Delivery = 7,
    /// A later answer is behind an earlier one, or marks contradict each other.
    RealTime = 8,
    /// A transaction that is torn, or seen although it is aborted or not yet committed, or that a
    /// fenced producer committed.
    Transactions = 9,
    /// A partition with two owners in one epoch of a group, or a committed position that went back
    /// or that nobody committed.
    Groups = 10,
    /// A record of a share group that two had at once, or that was handed out again after it was done
    /// with or too often, or never.
    Share = 11,
    /// Compaction took the last record of a key, or a deletion before its time.
    Compaction = 12,
    /// Records went from the start of a log before they might, or were there after they had gone.
    Retention = 13,
    /// Operations on a topic or a setting that fit into no order, or a topic id that was used twice.
    Metadata = 14,
    /// Two leaders in one epoch or term, or voters changed more than one at a time.
    Leadership = 15,
    /// Acknowledged with too few in sync, or a leader from outside the in-sync set.
    InSync = 16,
    /// Replicas differ.
    Replicas = 17,
    /// Not back in time after the last fault.
    Liveness = 18,
}

impl Point {
    /// All points, in their order.
    pub const ALL: [Self; 18] = [
        Self::Lost,
        Self::Phantom,
        Self::FailedAppears,
        Self::Inconsistent,
        Self::Duplicate,
        Self::Order,
        Self::Delivery,
        Self::RealTime,
        Self::Transactions,
        Self::Groups,
        Self::Share,
        Self::Compaction,
        Self::Retention,
        Self::Metadata,
        Self::Leadership,
        Self::InSync,
        Self::Replicas,
        Self::Liveness,
    ];

    /// The number the documentation gives it.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Lost => "lost",
            Self::Phantom => "phantom",
            Self::FailedAppears => "failed write appears",
            Self::Inconsistent => "inconsistent offset",
            Self::Duplicate => "duplicate",
            Self::Order => "order",
            Self::Delivery => "delivery",
            Self::RealTime => "real time",
            Self::Transactions => "transactions",
            Self::Groups => "groups",
            Self::Share => "share groups",
            Self::Compaction => "compaction",
            Self::Retention => "retention",
            Self::Metadata => "metadata",
            Self::Leadership => "leadership",
            Self::InSync => "in sync",
            Self::Replicas => "replicas differ",
            Self::Liveness => "liveness",
        };
        write!(f, "{} ({text})", self.number())
    }
}

/// One thing that is wrong, and where in the history to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which point it breaks.
    pub point: Point,
    /// In words.
    pub text: String,
    /// The events that show it.
    pub window: Window,
}

/// Which events belong to a violation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// Topic and partition index.
    pub tp: Option<(String, i32)>,
    /// First and last offset, when the violation is about offsets.
    pub offsets: Option<(i64, i64)>,
    /// Fingerprints of the values concerned.
    pub(super) values: Vec<u64>,
    /// The transaction concerned.
    pub txn: Option<String>,
    /// The share group concerned.
    pub group: Option<String>,
    /// The key of the metadata concerned.
    pub key: Option<String>,
    /// From when to when, in microseconds of the history's clock, if that is known.
    pub times: Option<(u64, u64)>,
}

/// The verdict over one history.
#[derive(Debug, Default, Clone)]
pub struct Verdict {
    /// The first violations of each point, in order of discovery.
    pub violations: Vec<Violation>,
    /// How many there are of each point.
    pub counts: BTreeMap<Point, u64>,
    /// How many observations each point was held against; none means that it is not proved.
    pub observed: BTreeMap<Point, u64>,
    /// Keys of the metadata whose search was given up: nothing is proved of these.
    pub undecided: Vec<String>,
    /// Run id, seed and replay command, as the history names them.
    pub run: String,
    /// Faults and administrative operations, with their times.
    pub timeline: Vec<String>,
    /// Lines read.
    pub events: u64,
}

/// Violations of one point that are kept with their words.
const KEPT_MAX: u64 = 8;

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn saw(&mut self, point: Point, count: u64) {
        *self.observed.entry(point).or_default() += count;
    }

    pub(super) fn violation(&mut self, point: Point, window: Window, text: impl Fn() -> String) {
        let count = self.counts.entry(point).or_default();
        *count += 1;
        if *count <= KEPT_MAX {
            self.violations.push(Violation { point, text: text(), window });
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for v in &self.violations {
            writeln!(f, "violation of point {}: {}", v.point, v.text)?;
        }
        let mut unseen = Vec::new();
        for point in Point::ALL {
            let bad = self.counts.get(&point).copied().unwrap_or(0);
            match self.observed.get(&point) {
                Some(n) => writeln!(f, "point {point}: {n} observations, {bad} violations")?,
                None if bad > 0 => writeln!(f, "point {point}: {bad} violations")?,
                None => unseen.push(point.number().to_string()),
            }
        }
        if !unseen.is_empty() {
            writeln!(f, "not proved, for want of events: points {}", unseen.join(", "))?;
        }
        if !self.undecided.is_empty() {
            let keys = self.undecided.join(", ");
            writeln!(f, "not decided, too many operations at once: {keys}")?;
        }
        let total: u64 = self.counts.values().sum();
        let word = if total == 0 { "pass" } else { "FAIL" };
        write!(f, "{word}: {} events, {total} violations{}", self.events, self.run)
    }
}
