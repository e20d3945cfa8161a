//! What a stop left of moves between log directories: a copy that is not whole is completed, one
//! whose replica is gone takes its place, and of two replicas of a partition the one stays that the
//! metadata knows (`LogManager.loadLog`, `recoverAbandonedFutureLogs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    base::{TopicPartition, Uuid},
    log::{DirState, Leftover, Log, LogError, LogInit, Recovery, names::Fate},
    metadata::Image,
    replica::{settings::PartitionSettings, table::ReplicaTable},
};

/// What becomes of partitions by moves that were under way.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Directories (by number) whose replica of a partition is not the one that stays.
    pub(super) passed_over: BTreeSet<(usize, TopicPartition)>,
    /// Copies that became replicas.
    pub(super) promoted: Vec<(usize, TopicPartition)>,
    /// Copies to complete.
    resumed: Vec<(usize, Leftover)>,
}

/// The topic's id, and the directory that the metadata says; `None` for a partition that is not
/// this broker's.
fn said(table: &ReplicaTable, image: &Image, tp: &TopicPartition) -> Option<(Uuid, Option<Uuid>)> {
    let topic = image.topics().by_name(&tp.topic)?;
    let partition = topic.partition(tp.partition).filter(|p| p.has_replica(table.node_id))?;
    Some((topic.id, partition.directory(table.node_id)))
}

/// Settles what `states`, the directories' contents, tell of moves.
pub(super) fn settle(table: &ReplicaTable, states: &[DirState], image: &Image) -> Settled {
    let mut settled = Settled::default();
    let mut homes: BTreeMap<&TopicPartition, Vec<usize>> = BTreeMap::new();
    for (dir, state) in states.iter().enumerate() {
        for found in &state.partitions {
            homes.entry(&found.tp).or_default().push(dir);
        }
    }
    for (tp, dirs) in homes.iter().filter(|(_, dirs)| dirs.len() > 1) {
        pass_over(table, image, tp, dirs, &mut settled);
    }
    for (dir, state) in states.iter().enumerate() {
        for copy in state.leftovers.iter().filter(|l| l.fate == Fate::Future) {
            let tp = &copy.tp;
            let log_dir = &table.dirs()[dir].log_dir;
            let (now, twice) =
                (table.clock.now(), settled.resumed.iter().any(|(_, l)| l.tp == *tp));
            match (said(table, image, tp), homes.get(tp)) {
                (Some(_), Some(dirs)) if !dirs.contains(&dir) && !twice => {
                    settled.resumed.push((dir, copy.clone()));
                }
                (Some((_, said)), None) if said == Some(table.dirs()[dir].id) => {
                    log_dir.adopt_future(tp, &copy.name);
                    match log_dir.promote_future(tp) {
                        Ok(()) => settled.promoted.push((dir, tp.clone())),
                        Err(e) => tracing::error!(partition = %tp, "its copy is not used: {e}"),
                    }
                }
                (Some(_), None) => {
                    tracing::warn!(copy = copy.name, "left alone: its replica was not found");
                }
                _ => log_dir.remove_leftover(copy, now.mono),
            }
        }
    }
    settled
}

/// The move of `tp` ended between the two renames, or somebody put a directory back.
fn pass_over(
    table: &ReplicaTable,
    image: &Image,
    tp: &TopicPartition,
    dirs: &[usize],
    settled: &mut Settled,
) {
    let said = said(table, image, tp).and_then(|(_, said)| said);
    let known = dirs.iter().copied().find(|d| Some(table.dirs()[*d].id) == said);
    let stays = known.or_else(|| dirs.first().copied());
    let fate = if known.is_some() { Fate::Delete } else { Fate::Stray };
    for dir in dirs.iter().copied().filter(|d| Some(*d) != stays) {
        let at = &table.dirs()[dir];
        tracing::warn!(partition = %tp, dir = %at.name, ?fate, "a second replica is set aside");
        let (now, unique) = (table.clock.now(), table.entropy.uuid());
        if let Err(e) = at.log_dir.retire(tp, fate, unique, 0, now) {
            tracing::error!(partition = %tp, "cannot set the second replica aside: {e}");
        }
        settled.passed_over.insert((dir, tp.clone()));
    }
}

/// Opens the copies that are to be completed, and goes on with them. To be called when their
/// replicas are open.
pub(super) fn resume(
    table: &ReplicaTable,
    settled: Settled,
    image: &Image,
    settings: &mut dyn FnMut(&str) -> Arc<PartitionSettings>,
) {
    for (dir, copy) in settled.resumed {
        let (log_dir, now) = (&table.dirs()[dir].log_dir, table.clock.now());
        let slot = said(table, image, &copy.tp)
            .and_then(|(topic_id, _)| table.by_id(topic_id, copy.tp.partition));
        let Some(slot) = slot else {
            tracing::warn!(copy = copy.name, "left alone: its replica was not opened");
            continue;
        };
        log_dir.adopt_future(&copy.tp, &copy.name);
        let init = LogInit {
            tp: copy.tp.clone(),
            topic_id: Some(slot.topic_id),
            config: Arc::clone(&settings(&slot.topic).log),
            log_start: 0,
            first_dirty: None,
            // Copies have no place in checkpoints, and are few.
            recovery: Recovery::Unclean { recovery_point: 0 },
        };
        let opened = Log::open(Arc::clone(log_dir), init, now);
        let gone = |e: LogError| {
            tracing::warn!(copy = copy.name, "the copy cannot be opened and is given up: {e}");
            let due = now.mono;
            if let Err(e) = log_dir.drop_future(&copy.tp, table.entropy.uuid(), due) {
                tracing::error!(copy = copy.name, "not removed: {e}");
            }
        };
        match opened {
            Ok(log) => table.resume_move(&slot, dir, log),
            Err(e) => gone(e),
        }
    }
}
