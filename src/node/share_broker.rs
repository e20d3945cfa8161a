//! The broker as users of share state see it, and how share state starts.

use std::{sync::Arc, time::Duration};

use futures::future::{BoxFuture, FutureExt as _};

use crate::{
    base::PartitionId,
    config::{
        ServerConfig,
        share_group::{ShareGroupSettings, ShareReset},
    },
    coordinator::{
        ShareStates,
        share_persister_driver::Persister,
        share_ports::{ShareBroker, ShareCoordinator},
        share_settings::ShareSettings as StateSettings,
    },
    metadata::{ConfigResource, ResourceType},
    node::{
        boot::World,
        offsets_log::{ReplicaOffsetsLog, SHARE_STATE_TOPIC},
        txn_broker::LateBroker,
    },
    record::{Codec, Compression},
    replica::table::ReplicaTable,
    server::{api::metadata, context},
    share::{
        SharePartitions,
        settings::{GroupSettings, OffsetReset, ShareSettings},
    },
};

impl ShareBroker for LateBroker {
    fn coordinator(&self, place: &dyn Fn(i32) -> PartitionId) -> ShareCoordinator {
        let Some(broker) = self.get() else { return ShareCoordinator::Unknown };
        let image = broker.image();
        let Some(topic) = image.topics().by_name(SHARE_STATE_TOPIC) else {
            return ShareCoordinator::NoTopic;
        };
        let leader = topic.partition(place(topic.partition_count())).and_then(|p| p.leader);
        if leader == Some(broker.node_id) {
            return ShareCoordinator::Here;
        }
        let node = leader.and_then(|l| image.brokers().get(l)).filter(|b| !b.fenced);
        let listener = &broker.settings.inter_broker_listener;
        match node.and_then(|n| Some((n.id, n.endpoint(listener)?))) {
            Some((node, at)) => {
                ShareCoordinator::At { node, host: Arc::clone(&at.host), port: at.port }
            }
            None => ShareCoordinator::Unknown,
        }
    }

    fn create_topic(&self) -> BoxFuture<'static, ()> {
        let broker = self.get();
        async move {
            if let Some(broker) = broker {
                metadata::create(&broker, vec![SHARE_STATE_TOPIC.to_owned()]).await;
            }
        }
        .boxed()
    }
}

/// The share coordinator, and the way to all of them.
pub(super) fn start(
    config: &ServerConfig,
    world: &World,
    replicas: &Arc<ReplicaTable>,
    broker: &Arc<LateBroker>,
) -> (ShareStates, Arc<Persister>) {
    let s = &config.share_coordinator;
    let codec = u8::try_from(s.codec).ok().and_then(|id| Codec::from_id(id).ok());
    let settings = StateSettings {
        updates_per_snapshot: s.updates_per_snapshot,
        write_timeout_ms: i64::from(s.write_timeout_ms),
        prune_interval_ms: i64::from(s.prune_interval_ms),
        cold_snapshot_interval_ms: i64::from(s.cold_snapshot_interval_ms),
        load_buffer_bytes: s.load_buffer_bytes,
        compression: codec.map_or(Compression::None, Compression::of),
        partitions: s.partitions,
    };
    let log = Arc::new(ReplicaOffsetsLog(Arc::clone(replicas), SHARE_STATE_TOPIC));
    let states = ShareStates::start(log, Arc::clone(&world.clock), settings);
    let timeout = u64::try_from(config.net.request_timeout_ms).unwrap_or(0).max(1);
    let timeout = Duration::from_millis(timeout);
    let persister = Persister::start(states.clone(), broker.clone(), timeout);
    (states, Arc::new(persister))
}

/// Share partitions, on the leaders of the partitions they lie over.
pub(super) fn serve(
    config: &ServerConfig,
    world: &World,
    replicas: &Arc<ReplicaTable>,
    persister: Arc<Persister>,
    broker: &Arc<LateBroker>,
) -> SharePartitions {
    let (replicas, clock) = (Arc::clone(replicas), Arc::clone(&world.clock));
    let sessions = config.share.max_sessions;
    SharePartitions::start(replicas, persister, broker.clone(), clock, sessions)
}

impl GroupSettings for LateBroker {
    fn of(&self, group: &str) -> ShareSettings {
        let Some(broker) = self.get() else { return ShareSettings::default() };
        let image = broker.image();
        let resource = ConfigResource { kind: ResourceType::Group, name: group.into() };
        let own = image.configs().get(&resource).map(|p| context::owned(p)).unwrap_or_default();
        let layers = context::layers(&broker.settings, broker.node_id, &image);
        let of_group = ShareGroupSettings::of(&own, &layers);
        ShareSettings {
            lock_duration_ms: of_group.record_lock_ms,
            delivery_count_limit: i16::try_from(of_group.delivery_count_limit).unwrap_or(i16::MAX),
            max_record_locks: of_group.max_record_locks,
            read_committed: of_group.read_committed,
            offset_reset: match of_group.reset {
                ShareReset::Earliest => OffsetReset::Earliest,
                ShareReset::Latest => OffsetReset::Latest,
                ShareReset::ByDuration(ms) => OffsetReset::ByDuration(ms),
            },
            renews: of_group.renew,
        }
    }
}
