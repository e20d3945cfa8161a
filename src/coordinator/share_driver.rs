//! The share coordinator: the shell around shards of share state. May wait.

use std::{collections::BTreeSet, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::watch;

use super::{
    machine::Job,
    ports::OffsetsLog,
    shards_driver::{Host, Shared, Shell},
    share_calls::{ShareAsk, ShareCall, ShareEffect, ShareReply},
    share_persister::{ShareKey, ShareState, ShareSummary, ShareWrite},
    share_ports::PrunedLog,
    share_records::ShareRecord,
    share_settings::ShareSettings,
    share_shard::ShareShard,
};
use crate::{
    base::{ErrorCode, Now, Offset, PartitionId, Uuid, ports::Clock},
    metadata::Image,
    record::{BatchBuilder, Compression},
};

/// The share partitions whose state this broker keeps. A cheap handle; clones share everything.
#[derive(Debug, Clone)]
pub struct ShareStates {
    shell: Arc<Shell<ShareHost>>,
}

#[derive(Debug)]
struct ShareHost {
    settings: Arc<ShareSettings>,
    log: Arc<dyn PrunedLog>,
    image: ArcSwap<Image>,
}

impl ShareHost {
    fn has_partition(&self, key: &ShareKey) -> bool {
        let image = self.image.load();
        image.topics().by_id(key.topic).is_some_and(|t| key.partition < t.partition_count())
    }
}

impl Host for ShareHost {
    type Shard = ShareShard;
    const KEEPS: &'static str = "share partitions";

    fn shard(&self) -> ShareShard {
        ShareShard::new(Arc::clone(&self.settings))
    }

    fn at(&self, now: Now) -> Now {
        now
    }

    fn job(&self, effect: ShareEffect, now: Now) -> Job<ShareShard> {
        match effect {
            ShareEffect::Append { ticket, records } => {
                Job::Append(ticket, encode(&records, self.settings.compression, now.wall_ms))
            }
            ShareEffect::Reply { token, reply } => Job::Reply(token, reply),
            ShareEffect::Prune(_) => Job::Own(effect),
        }
    }

    fn own(
        shell: &Arc<Shell<Self>>,
        (partition, epoch): (PartitionId, i32),
        _shared: &Shared<Self>,
        effect: ShareEffect,
    ) {
        let ShareEffect::Prune(offset) = effect else { return };
        let log = Arc::clone(&shell.host.log);
        // Files may have to be removed.
        shell.runtime.spawn_blocking(move || prune(&*log, partition, epoch, offset));
    }

    fn loaded(&self, shard: &mut ShareShard, now: Now, out: &mut Vec<ShareEffect>) {
        // The image is at least as new as this broker's election, and that is newer than any topic
        // of which an earlier coordinator has kept state.
        let image = self.image.load();
        shard.loaded(|topic| image.topics().by_id(topic).is_some(), now, out);
    }

    fn size(shard: &ShareShard) -> (usize, usize) {
        (shard.size(), 0)
    }
}

fn prune(log: &dyn PrunedLog, partition: PartitionId, epoch: i32, offset: Offset) {
    match log.delete_before(partition, epoch, offset) {
        Ok(()) => tracing::debug!(partition, offset, "gave up old share state"),
        // It is tried again, with more to give up.
        Err(error) => {
            let error = error.name();
            tracing::info!(partition, offset, error, "old share state is not given up");
        }
    }
}

/// One batch of `records`, all stamped `now_ms`.
fn encode(
    records: &[ShareRecord],
    compression: Compression,
    now_ms: i64,
) -> Result<Bytes, ErrorCode> {
    let mut batch = BatchBuilder::new(compression);
    for record in records {
        let (key, value) = record.encode().map_err(|_| ErrorCode::UnknownServerError)?;
        batch
            .append(now_ms, Some(&key), value.as_deref(), &[])
            .map_err(|_| ErrorCode::RecordListTooLarge)?;
    }
    Ok(batch.finish())
}

impl ShareStates {
    /// Starts without any partition.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start<L: PrunedLog + 'static>(
        log: Arc<L>,
        clock: Arc<dyn Clock>,
        settings: ShareSettings,
    ) -> Self {
        let (partitions, load_buffer_bytes) = (settings.partitions, settings.load_buffer_bytes);
        let shards: Arc<dyn OffsetsLog> = log.clone();
        let host = ShareHost { settings: Arc::new(settings), log, image: ArcSwap::default() };
        Self { shell: Shell::start(host, shards, clock, partitions, load_buffer_bytes) }
    }

    /// Shards are not loaded before [`ShareStates::serve`]: see [`Shell::hold`].
    pub fn hold(&self) {
        self.shell.hold();
    }

    /// Shards are loaded from now on.
    pub fn serve(&self) {
        self.shell.serve();
    }

    /// Leaves all partitions and ends the tasks. Waiting requests get `NotCoordinator`.
    pub fn stop(&self) {
        self.shell.stop();
    }

    /// Tells when [`ShareStates::stop`] is called.
    pub(super) fn stopped(&self) -> watch::Receiver<bool> {
        self.shell.stopped.subscribe()
    }

    /// How many partitions `__share_group_state` has. Called before the elections of its partitions.
    pub fn set_partition_count(&self, count: i32) {
        self.shell.set_partition_count(count);
    }

    /// The cluster's metadata is now `image`. Called before the elections of the same update, and
    /// whenever topics come, go, or get more partitions.
    pub fn metadata_changed(&self, image: &Arc<Image>) {
        self.shell.host.image.store(Arc::clone(image));
    }

    /// This broker leads `partition` since `epoch`: its share state is loaded, and served once it is.
    pub fn elected(&self, partition: PartitionId, epoch: i32) {
        self.shell.elected(partition, epoch);
    }

    /// This broker does not lead `partition` any more, as of `epoch` (`None`: the partition is
    /// gone). Waiting requests get `NotCoordinator`.
    pub fn resigned(&self, partition: PartitionId, epoch: Option<i32>) {
        self.shell.resigned(partition, epoch);
    }

    /// These topics are gone: what is kept of them is forgotten, in the background.
    pub fn topics_deleted(&self, topics: &BTreeSet<Uuid>) {
        for (partition, _) in self.shell.all() {
            // A shard that loads now looks itself.
            let call = ShareCall::TopicsDeleted(topics.clone());
            if let Err(error) = self.shell.submit(partition, call) {
                let error = error.name();
                tracing::debug!(partition, error, "share state of topics is not removed");
            }
        }
    }

    /// The partition of `__share_group_state` that keeps `key`.
    #[must_use]
    pub fn partition_of(&self, key: &ShareKey) -> PartitionId {
        key.state_partition(self.shell.partition_count())
    }

    /// What is asked of one share partition.
    pub(super) async fn ask(&self, key: ShareKey, ask: ShareAsk) -> ShareReply {
        let (partition, exists) = (self.partition_of(&key), self.shell.host.has_partition(&key));
        let refused = ask.refused(ErrorCode::NotCoordinator);
        let reply = self.shell.ask(partition, ShareCall::Key { key, exists, ask }).await;
        reply.unwrap_or_else(|error| refused.failed(error))
    }

    // All that follow: answered once committed.

    /// InitializeShareGroupState for one share partition.
    ///
    /// # Errors
    /// `InvalidRequest`, `FencedStateEpoch`, `UnknownTopicOrPartition`; `NotCoordinator`,
    /// `CoordinatorLoadInProgress`, `CoordinatorNotAvailable`.
    pub async fn initialize(
        &self,
        key: ShareKey,
        state_epoch: i32,
        start_offset: Offset,
    ) -> Result<(), ErrorCode> {
        self.ask(key, ShareAsk::Initialize { state_epoch, start_offset }).await.done()
    }

    /// ReadShareGroupState for one share partition.
    ///
    /// # Errors
    /// As [`ShareStates::initialize`]; `FencedLeaderEpoch`.
    pub async fn read(&self, key: ShareKey, leader_epoch: i32) -> Result<ShareState, ErrorCode> {
        self.ask(key, ShareAsk::Read { leader_epoch }).await.state()
    }

    /// WriteShareGroupState for one share partition.
    ///
    /// # Errors
    /// As [`ShareStates::read`].
    pub async fn write(&self, key: ShareKey, write: ShareWrite) -> Result<(), ErrorCode> {
        self.ask(key, ShareAsk::Write(write)).await.done()
    }

    /// DeleteShareGroupState for one share partition; well, too, if nothing is kept of it.
    ///
    /// # Errors
    /// As [`ShareStates::initialize`], but for the epoch.
    pub async fn delete(&self, key: ShareKey) -> Result<(), ErrorCode> {
        self.ask(key, ShareAsk::Delete).await.done()
    }

    /// ReadShareGroupStateSummary for one share partition; epochs of 0 and offsets of -1 if nothing
    /// is kept of it.
    ///
    /// # Errors
    /// As [`ShareStates::delete`].
    pub async fn summary(
        &self,
        key: ShareKey,
        leader_epoch: i32,
    ) -> Result<ShareSummary, ErrorCode> {
        self.ask(key, ShareAsk::Summary { leader_epoch }).await.summary()
    }
}
