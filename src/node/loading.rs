//! Loading of the partition logs at boot: in parallel, a few threads a directory; after an unclean
//! stop with recovery. What the image does not know is set aside as stray, never deleted.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    base::{TopicPartition, Uuid},
    log::{CleanEntry, DirState, FoundPartition, Log, LogError, LogInit, Recovery, names::Fate},
    metadata::Image,
    node::moved::{self, Settled},
    replica::{
        partition::Partition, settings::PartitionSettings, table::ReplicaTable, upkeep_driver,
    },
};

/// One log to open.
struct Job {
    tp: TopicPartition,
    topic_id: Uuid,
    known: Option<CleanEntry>,
    settings: Arc<PartitionSettings>,
}

/// Opens every partition that lies in the directories and that the image gives to this broker, and
/// puts it into `table`. `states` are the directories' contents, in the order of the table's. With
/// no thread at all (0) the caller's does the work.
pub fn load_all(
    table: &ReplicaTable,
    states: &[DirState],
    image: &Image,
    threads_per_dir: usize,
    settings: &mut dyn FnMut(&str) -> Arc<PartitionSettings>,
) {
    let settled = moved::settle(table, states, image);
    let mut plans: Vec<VecDeque<Job>> = Vec::new();
    for (dir, state) in states.iter().enumerate() {
        plans.push(plan(table, dir, state, &settled, image, settings));
    }
    std::thread::scope(|scope| {
        for (dir, (state, jobs)) in states.iter().zip(plans).enumerate() {
            if threads_per_dir == 0 {
                jobs.into_iter().for_each(|job| open(table, dir, state, job));
                continue;
            }
            let workers = threads_per_dir.min(jobs.len());
            let jobs = Arc::new(Mutex::new(jobs));
            for _ in 0..workers {
                let jobs = Arc::clone(&jobs);
                scope.spawn(move || {
                    loop {
                        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some(job) = job else { break };
                        open(table, dir, state, job);
                    }
                });
            }
        }
    });
    moved::resume(table, settled, image, settings);
    // What recovery has cut must not be looked for again.
    if table.all().iter().any(|slot| slot.lock().log.checkpoint_due()) {
        upkeep_driver::write_recovery_points(table);
    }
}

fn plan(
    table: &ReplicaTable,
    dir: usize,
    state: &DirState,
    settled: &Settled,
    image: &Image,
    settings: &mut dyn FnMut(&str) -> Arc<PartitionSettings>,
) -> VecDeque<Job> {
    let mut jobs = VecDeque::new();
    let mut cache: BTreeMap<Arc<str>, Arc<PartitionSettings>> = BTreeMap::new();
    let promoted = settled.promoted.iter().filter(|(at, _)| *at == dir);
    let promoted = promoted.map(|(_, tp)| FoundPartition { tp: tp.clone(), known: None });
    let found = state.partitions.iter().cloned().chain(promoted);
    for found in found.filter(|f| !settled.passed_over.contains(&(dir, f.tp.clone()))) {
        let topic = image.topics().by_name(&found.tp.topic);
        let mine = topic.filter(|t| {
            t.partition(found.tp.partition).is_some_and(|p| p.has_replica(table.node_id))
        });
        let Some(topic) = mine else {
            set_aside(table, dir, &found.tp, "the cluster has no such partition here");
            continue;
        };
        let settings =
            cache.entry(Arc::clone(&topic.name)).or_insert_with(|| settings(&topic.name));
        jobs.push_back(Job {
            tp: TopicPartition::new(Arc::clone(&topic.name), found.tp.partition),
            topic_id: topic.id,
            known: found.known,
            settings: Arc::clone(settings),
        });
    }
    let (log_dir, now) = (&table.dirs()[dir].log_dir, table.clock.now());
    for leftover in state.leftovers.iter().filter(|l| l.fate == Fate::Delete) {
        log_dir.remove_leftover(leftover, now.mono);
    }
    jobs
}

fn open(table: &ReplicaTable, dir: usize, state: &DirState, job: Job) {
    let recovery = match (state.clean, job.known) {
        (true, Some(entry)) => Recovery::Known(entry),
        (true, None) => Recovery::Clean,
        (false, _) => Recovery::Unclean {
            recovery_point: state.recovery_points.get(&job.tp).copied().unwrap_or(0),
        },
    };
    let init = LogInit {
        tp: job.tp.clone(),
        topic_id: Some(job.topic_id),
        config: Arc::clone(&job.settings.log),
        log_start: state.log_starts.get(&job.tp).copied().unwrap_or(0),
        first_dirty: state.cleaner_points.get(&job.tp).copied(),
        recovery,
    };
    let log_dir = Arc::clone(&table.dirs()[dir].log_dir);
    let opened = Log::open(log_dir, init, table.clock.now());
    match opened.and_then(|log| made_durable(table, log, &job.settings)) {
        Ok(log) => {
            let start = log.log_start_offset();
            let mark = state.high_watermarks.get(&job.tp).copied().unwrap_or(start);
            let partition = Partition::new(Arc::clone(&table.brokers), log, job.settings, mark);
            table.add(&job.tp, job.topic_id, dir, partition);
        }
        Err(LogError::InconsistentTopicId { .. }) => {
            set_aside(table, dir, &job.tp, "it belongs to another topic of the same name");
        }
        Err(e) => tracing::error!(partition = %job.tp, "cannot open the log: {e}"),
    }
}

/// In the durable mode nobody reads past what is on disk: what recovery found is brought there now,
/// as no append may come to do it.
fn made_durable(
    table: &ReplicaTable,
    mut log: Log,
    settings: &PartitionSettings,
) -> Result<Log, LogError> {
    if settings.durable()
        && let Some(ticket) = log.flush_ticket()?
    {
        let mark = ticket.sync()?;
        log.flushed(mark, table.clock.now());
    }
    Ok(log)
}

fn set_aside(table: &ReplicaTable, dir: usize, tp: &TopicPartition, why: &str) {
    let (now, unique) = (table.clock.now(), table.entropy.uuid());
    let log_dir = &table.dirs()[dir].log_dir;
    tracing::warn!(partition = %tp, "set aside as stray: {why}");
    if let Err(e) = log_dir.retire(tp, Fate::Stray, unique, 0, now) {
        tracing::error!(partition = %tp, "cannot set the stray directory aside: {e}");
    }
}
