//! The settings of a server that are plain values, in the groups that rooms ask for. Each field
//! names its key; units are in the names. Uses `layers`.

use super::layers::Layers;

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $read:ident $key:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $(
            #[doc = concat!("`", $key, "`.")]
            pub $field: $type,
        )* }

        impl $name {
            /// What `layers` say.
            #[must_use]
            pub fn read(layers: &Layers) -> Self {
                Self { $($field: layers.$read($key),)* }
            }
        }
    };
}

section! {
    /// Sockets, connections and requests.
    NetConfig {
        send_buffer_bytes: i32 = int "socket.send.buffer.bytes",
        receive_buffer_bytes: i32 = int "socket.receive.buffer.bytes",
        request_max_bytes: usize = count "socket.request.max.bytes",
        backlog: i32 = int "socket.listen.backlog.size",
        spin_us: usize = count "vltava.listener.spin.us",
        network_threads: usize = count "num.network.threads",
        io_threads: usize = count "num.io.threads",
        background_threads: usize = count "background.threads",
        queued_max_requests: usize = count "queued.max.requests",
        queued_max_request_bytes: i64 = long "queued.max.request.bytes",
        max_connections: usize = count "max.connections",
        max_connections_per_ip: usize = count "max.connections.per.ip",
        max_connection_creation_rate: usize = count "max.connection.creation.rate",
        connections_max_idle_ms: i64 = long "connections.max.idle.ms",
        failed_authentication_delay_ms: i32 = int "connection.failed.authentication.delay.ms",
        sasl_max_receive_bytes: i32 = int "sasl.server.max.receive.size",
        request_timeout_ms: i32 = int "request.timeout.ms",
        connection_setup_timeout_ms: i64 = long "socket.connection.setup.timeout.ms",
        connection_setup_timeout_max_ms: i64 = long "socket.connection.setup.timeout.max.ms",
    }
}

section! {
    /// The controllers' quorum and the metadata log.
    QuorumConfig {
        election_timeout_ms: i32 = int "controller.quorum.election.timeout.ms",
        fetch_timeout_ms: i32 = int "controller.quorum.fetch.timeout.ms",
        election_backoff_max_ms: i32 = int "controller.quorum.election.backoff.max.ms",
        append_linger_ms: i32 = int "controller.quorum.append.linger.ms",
        request_timeout_ms: i32 = int "controller.quorum.request.timeout.ms",
        retry_backoff_ms: i32 = int "controller.quorum.retry.backoff.ms",
        fetch_max_bytes: usize = count "controller.quorum.fetch.max.bytes",
        fetch_snapshot_max_bytes: usize = count "controller.quorum.fetch.snapshot.max.bytes",
        auto_join: bool = flag "controller.quorum.auto.join.enable",
        segment_bytes: i32 = int "metadata.log.segment.bytes",
        segment_ms: i64 = long "metadata.log.segment.ms",
        retention_bytes: i64 = long "metadata.max.retention.bytes",
        retention_ms: i64 = long "metadata.max.retention.ms",
        max_record_bytes_between_snapshots: i64 =
            long "metadata.log.max.record.bytes.between.snapshots",
        max_snapshot_interval_ms: i64 = long "metadata.log.max.snapshot.interval.ms",
        max_idle_interval_ms: i32 = int "metadata.max.idle.interval.ms",
    }
}

section! {
    /// The broker's life with the controller, and the controller's decisions.
    ClusterConfig {
        heartbeat_interval_ms: i32 = int "broker.heartbeat.interval.ms",
        session_timeout_ms: i32 = int "broker.session.timeout.ms",
        initial_registration_timeout_ms: i32 = int "initial.broker.registration.timeout.ms",
        controller_socket_timeout_ms: i32 = int "controller.socket.timeout.ms",
        controlled_shutdown: bool = flag "controlled.shutdown.enable",
        controlled_shutdown_force: bool = flag "vltava.controlled.shutdown.force",
        controlled_shutdown_wait_ms: i64 = long "vltava.controlled.shutdown.wait.ms",
        rack: Option<String> = maybe_text "broker.rack",
        auto_create_topics: bool = flag "auto.create.topics.enable",
        delete_topics: bool = flag "delete.topic.enable",
        num_partitions: i32 = int "num.partitions",
        default_replication_factor: i32 = int "default.replication.factor",
        auto_leader_rebalance: bool = flag "auto.leader.rebalance.enable",
        leader_imbalance_check_interval_seconds: i64 =
            long "leader.imbalance.check.interval.seconds",
        unclean_leader_election: bool = flag "unclean.leader.election.enable",
        unclean_leader_election_interval_ms: i64 = long "unclean.leader.election.interval.ms",
        min_insync_replicas: i32 = int "min.insync.replicas",
        max_request_partitions: i32 = int "max.request.partition.size.limit",
        telemetry_max_bytes: i32 = int "telemetry.max.bytes",
        unstable_apis: bool = flag "unstable.api.versions.enable",
        unstable_features: bool = flag "unstable.feature.versions.enable",
    }
}

section! {
    /// Log housekeeping; the settings of single logs are `TopicConfig`.
    LogsConfig {
        retention_check_interval_ms: i64 = long "log.retention.check.interval.ms",
        flush_scheduler_interval_ms: i64 = long "log.flush.scheduler.interval.ms",
        flush_offset_checkpoint_interval_ms: i32 = int "log.flush.offset.checkpoint.interval.ms",
        flush_start_offset_checkpoint_interval_ms: i32 =
            int "log.flush.start.offset.checkpoint.interval.ms",
        initial_task_delay_ms: i64 = long "log.initial.task.delay.ms",
        recovery_threads_per_dir: usize = count "num.recovery.threads.per.data.dir",
        dir_failure_timeout_ms: i64 = long "log.dir.failure.timeout.ms",
        cleaner: bool = flag "log.cleaner.enable",
        cleaner_threads: usize = count "log.cleaner.threads",
        cleaner_dedupe_buffer_bytes: i64 = long "log.cleaner.dedupe.buffer.size",
        cleaner_io_buffer_bytes: usize = count "log.cleaner.io.buffer.size",
        cleaner_io_buffer_load_factor: f64 = double "log.cleaner.io.buffer.load.factor",
        cleaner_io_max_bytes_per_second: f64 = double "log.cleaner.io.max.bytes.per.second",
        cleaner_backoff_ms: i64 = long "log.cleaner.backoff.ms",
        producer_id_expiration_ms: i32 = int "producer.id.expiration.ms",
        producer_id_expiration_check_interval_ms: i32 =
            int "producer.id.expiration.check.interval.ms",
    }
}

section! {
    /// Replication and fetching.
    ReplicaConfig {
        lag_time_max_ms: i64 = long "replica.lag.time.max.ms",
        fetch_max_bytes: i32 = int "replica.fetch.max.bytes",
        fetch_wait_max_ms: i32 = int "replica.fetch.wait.max.ms",
        fetch_min_bytes: i32 = int "replica.fetch.min.bytes",
        fetch_response_max_bytes: i32 = int "replica.fetch.response.max.bytes",
        fetch_backoff_ms: i32 = int "replica.fetch.backoff.ms",
        fetchers: usize = count "num.replica.fetchers",
        socket_timeout_ms: i32 = int "replica.socket.timeout.ms",
        socket_receive_buffer_bytes: i32 = int "replica.socket.receive.buffer.bytes",
        high_watermark_checkpoint_interval_ms: i64 =
            long "replica.high.watermark.checkpoint.interval.ms",
        selector: Option<String> = maybe_text "replica.selector.class",
        client_fetch_max_bytes: i32 = int "fetch.max.bytes",
        fetch_session_slots: usize = count "max.incremental.fetch.session.cache.slots",
        quota_samples: usize = count "replication.quota.window.num",
        quota_sample_seconds: i32 = int "replication.quota.window.size.seconds",
        moves_quota_samples: usize = count "alter.log.dirs.replication.quota.window.num",
        moves_quota_sample_seconds: i32 =
            int "alter.log.dirs.replication.quota.window.size.seconds",
    }
}

/// What the class name of a replica selector ends with that picks by rack (KIP-392).
const BY_RACK: &str = "RackAwareReplicaSelector";
/// The one that picks the leader.
const BY_LEADERSHIP: &str = "LeaderSelector";

impl ReplicaConfig {
    /// Whether consumers are sent to a replica in their rack.
    #[must_use]
    pub fn selects_by_rack(&self) -> bool {
        self.selector.as_deref().is_some_and(|class| class.ends_with(BY_RACK))
    }

    /// Whether the replica selector is one that exists here.
    pub(super) fn selector_is_known(&self) -> bool {
        let known = |class: &str| class.ends_with(BY_RACK) || class.ends_with(BY_LEADERSHIP);
        self.selector.as_deref().is_none_or(|class| class.is_empty() || known(class))
    }
}

section! {
    /// Group coordinators and committed offsets.
    GroupConfig {
        min_session_timeout_ms: i32 = int "group.min.session.timeout.ms",
        max_session_timeout_ms: i32 = int "group.max.session.timeout.ms",
        initial_rebalance_delay_ms: i32 = int "group.initial.rebalance.delay.ms",
        max_size: usize = count "group.max.size",
        rebalance_protocols: Vec<String> = list "group.coordinator.rebalance.protocols",
        append_linger_ms: i32 = int "group.coordinator.append.linger.ms",
        threads: usize = count "group.coordinator.threads",
        consumer_session_timeout_ms: i32 = int "group.consumer.session.timeout.ms",
        consumer_min_session_timeout_ms: i32 = int "group.consumer.min.session.timeout.ms",
        consumer_max_session_timeout_ms: i32 = int "group.consumer.max.session.timeout.ms",
        consumer_heartbeat_interval_ms: i32 = int "group.consumer.heartbeat.interval.ms",
        consumer_min_heartbeat_interval_ms: i32 = int "group.consumer.min.heartbeat.interval.ms",
        consumer_max_heartbeat_interval_ms: i32 = int "group.consumer.max.heartbeat.interval.ms",
        consumer_max_size: usize = count "group.consumer.max.size",
        consumer_assignors: Vec<String> = list "group.consumer.assignors",
        consumer_migration_policy: String = text "group.consumer.migration.policy",
        consumer_assignment_interval_ms: i32 = int "group.consumer.assignment.interval.ms",
        consumer_min_assignment_interval_ms: i32 = int "group.consumer.min.assignment.interval.ms",
        consumer_max_assignment_interval_ms: i32 = int "group.consumer.max.assignment.interval.ms",
        consumer_regex_refresh_interval_ms: i32 = int "group.consumer.regex.refresh.interval.ms",
        offsets_partitions: i32 = int "offsets.topic.num.partitions",
        offsets_replication_factor: i16 = short "offsets.topic.replication.factor",
        offsets_segment_bytes: i32 = int "offsets.topic.segment.bytes",
        offsets_codec: i32 = int "offsets.topic.compression.codec",
        offsets_load_buffer_bytes: usize = count "offsets.load.buffer.size",
        offsets_retention_minutes: i32 = int "offsets.retention.minutes",
        offsets_retention_check_interval_ms: i64 = long "offsets.retention.check.interval.ms",
        offsets_commit_timeout_ms: i32 = int "offsets.commit.timeout.ms",
        offset_metadata_max_bytes: i32 = int "offset.metadata.max.bytes",
    }
}

section! {
    /// Membership of share groups (KIP-932). How records are delivered, `ShareGroupSettings` tells.
    ShareConfig {
        session_timeout_ms: i32 = int "group.share.session.timeout.ms",
        min_session_timeout_ms: i32 = int "group.share.min.session.timeout.ms",
        max_session_timeout_ms: i32 = int "group.share.max.session.timeout.ms",
        heartbeat_interval_ms: i32 = int "group.share.heartbeat.interval.ms",
        min_heartbeat_interval_ms: i32 = int "group.share.min.heartbeat.interval.ms",
        max_heartbeat_interval_ms: i32 = int "group.share.max.heartbeat.interval.ms",
        assignment_interval_ms: i32 = int "group.share.assignment.interval.ms",
        min_assignment_interval_ms: i32 = int "group.share.min.assignment.interval.ms",
        max_assignment_interval_ms: i32 = int "group.share.max.assignment.interval.ms",
        max_size: usize = count "group.share.max.size",
        assignors: Vec<String> = list "group.share.assignors",
        max_sessions: usize = count "group.share.max.share.sessions",
    }
}

section! {
    /// Transactions.
    TransactionConfig {
        max_timeout_ms: i32 = int "transaction.max.timeout.ms",
        id_expiration_ms: i32 = int "transactional.id.expiration.ms",
        partitions: i32 = int "transaction.state.log.num.partitions",
        replication_factor: i16 = short "transaction.state.log.replication.factor",
        min_insync_replicas: i32 = int "transaction.state.log.min.isr",
        segment_bytes: i32 = int "transaction.state.log.segment.bytes",
        load_buffer_bytes: usize = count "transaction.state.log.load.buffer.size",
        abort_interval_ms: i32 =
            int "transaction.abort.timed.out.transaction.cleanup.interval.ms",
        expire_interval_ms: i32 =
            int "transaction.remove.expired.transaction.cleanup.interval.ms",
        partition_verification: bool = flag "transaction.partition.verification.enable",
    }
}

section! {
    /// Share coordinators (KIP-932).
    ShareCoordinatorConfig {
        partitions: i32 = int "share.coordinator.state.topic.num.partitions",
        replication_factor: i16 = short "share.coordinator.state.topic.replication.factor",
        min_insync_replicas: i16 = short "share.coordinator.state.topic.min.isr",
        segment_bytes: i32 = int "share.coordinator.state.topic.segment.bytes",
        codec: i32 = int "share.coordinator.state.topic.compression.codec",
        updates_per_snapshot: i32 = int "share.coordinator.snapshot.update.records.per.snapshot",
        load_buffer_bytes: usize = count "share.coordinator.load.buffer.size",
        write_timeout_ms: i32 = int "share.coordinator.write.timeout.ms",
        prune_interval_ms: i32 = int "share.coordinator.state.topic.prune.interval.ms",
        cold_snapshot_interval_ms: i32 =
            int "share.coordinator.cold.partition.snapshot.interval.ms",
    }
}

section! {
    /// What is logged about the node itself, how and where.
    LoggingConfig {
        level: String = text "vltava.log.level",
        format: String = text "vltava.log.format",
        file: Option<String> = maybe_text "vltava.log.file",
    }
}
