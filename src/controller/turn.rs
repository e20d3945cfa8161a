//! One command's turn: all it may read, and the draft it writes into.

use std::sync::Arc;

use rand::rngs::StdRng;

use crate::base::{ErrorCode, NodeId, Now, Uuid};
use crate::metadata::{BrokerRegistration, ConfigResource, Image};

use super::{
    backlog::Backlog, command::Refusal, core::Settings, draft::Draft, index::Index,
    sessions::Sessions,
};

/// See the file's head. The other files add their commands to it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) settings: &'a Settings,
    pub(super) sessions: &'a mut Sessions,
    /// Over the committed image: what the draft changed is not in it.
    pub(super) index: &'a Index,
    pub(super) backlog: &'a mut Backlog,
    pub(super) rng: &'a mut StdRng,
    pub(super) draft: &'a mut Draft,
    pub(super) now: Now,
}

impl Turn<'_> {
    /// The image with what this round decided.
    pub(super) const fn image(&self) -> &Image {
        self.draft.image()
    }

    /// The registration of a broker that names its epoch (`checkBrokerEpoch`).
    pub(super) fn broker_at(
        &self,
        broker: NodeId,
        epoch: i64,
    ) -> Result<Arc<BrokerRegistration>, Refusal> {
        let stale = |text| Refusal::new(ErrorCode::StaleBrokerEpoch, text);
        let Some(b) = self.image().brokers().get(broker) else {
            return Err(stale(format!("No broker registration found for broker id {broker}")));
        };
        if b.epoch != epoch {
            let known = b.epoch;
            let text = format!("Expected broker epoch {known}, but got broker epoch {epoch}");
            return Err(stale(text));
        }
        Ok(Arc::clone(b))
    }

    /// The finalized metadata version; the lowest one before the first activation.
    pub(super) fn metadata_version(&self) -> i16 {
        let known = self.image().features().metadata_version();
        known.unwrap_or(crate::metadata::features::METADATA_VERSION_MIN)
    }

    /// A topic's key: its own value, else the dynamic one of this node, else that of all brokers
    /// (`ConfigurationControlManager.getTopicConfig`).
    fn topic_setting(&self, topic: &str, key: &str) -> Option<&str> {
        let configs = self.image().configs();
        let own = configs.value(&ConfigResource::topic(topic), key);
        own.or_else(|| configs.value(&ConfigResource::broker(self.settings.node), key))
            .or_else(|| configs.value(&ConfigResource::all_brokers(), key))
    }

    /// `min.insync.replicas` of a topic, at most its replication factor.
    pub(super) fn min_isr(&self, topic: &str, replication_factor: usize) -> usize {
        let text = self.topic_setting(topic, "min.insync.replicas");
        let set = text.and_then(|v| v.trim().parse().ok());
        set.unwrap_or(self.settings.defaults.min_insync_replicas).min(replication_factor)
    }

    /// Whether a topic prefers a leader that may lack records to none.
    pub(super) fn unclean_election(&self, topic: &str) -> bool {
        let text = self.topic_setting(topic, "unclean.leader.election.enable");
        text.map_or(self.settings.defaults.unclean_leader_election, |v| {
            v.trim().eq_ignore_ascii_case("true")
        })
    }

    /// A new id that no topic has.
    pub(super) fn draw_topic_id(&mut self) -> Uuid {
        loop {
            let mut bytes = [0; 16];
            rand::Rng::fill_bytes(self.rng, &mut bytes);
            if let Some(id) = Uuid::random_from(bytes)
                && self.image().topics().by_id(id).is_none()
            {
                return id;
            }
        }
    }

    /// The directory of a new replica: the only one of the broker, else to be chosen by it.
    pub(super) fn default_dir(&self, broker: NodeId) -> Uuid {
        match self.image().brokers().get(broker).map(|b| b.log_dirs.as_slice()) {
            Some([only]) => *only,
            _ => Uuid::UNASSIGNED_DIR,
        }
    }
}

/// Reads an id that must be 16 bytes; others read as zero, which names nothing.
pub(super) fn uuid_of(bytes: &[u8]) -> Uuid {
    bytes.try_into().map_or(Uuid::ZERO, Uuid)
}
