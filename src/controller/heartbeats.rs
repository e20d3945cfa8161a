//! Heartbeats: fencing, unfencing, controlled shutdown, failed and cordoned log directories, and
//! the end of a silent broker's session (`BrokerHeartbeatManager.java`,
//! `ReplicationControlManager.processBrokerHeartbeat`). Uses `metadata`.

use crate::base::{NodeId, Uuid};
use crate::metadata::features::METADATA_VERSION_CORDONED;
use crate::metadata::record::BrokerRegistrationChange;
use crate::metadata::{BrokerRegistration, Record};
use crate::pb::controller as pb;

use super::{
    command::{Outcome, Reply},
    sessions::Contact,
    turn::{Turn, uuid_of},
};

/// What a broker's heartbeat leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Fenced,
    Unfenced,
    ControlledShutdown,
    ShutDownNow,
    /// It may not stop yet, and why; otherwise all stays as it is.
    ShutdownRefused(String),
}

impl Turn<'_> {
    pub(super) fn heartbeat(&mut self, r: &pb::HeartbeatRequest) -> Outcome {
        let (id, epoch) = (NodeId(r.broker_id), r.broker_epoch);
        let reply = match self.broker_at(id, epoch) {
            Err(refusal) => pb::HeartbeatReply {
                error: refusal.number(),
                error_message: refusal.message,
                ..pb::HeartbeatReply::default()
            },
            Ok(broker) => self.answer_heartbeat(&broker, r),
        };
        Outcome::of(Reply::Heartbeat(reply))
    }

    fn answer_heartbeat(
        &mut self,
        broker: &BrokerRegistration,
        r: &pb::HeartbeatRequest,
    ) -> pb::HeartbeatReply {
        let contact = Contact { offset: r.metadata_offset, stops: r.want_shut_down };
        self.sessions.touch(broker.id, broker.epoch, contact, self.now.mono);
        // The registration's offset is the epoch: the broker has caught up once it read that far.
        let caught_up = r.metadata_offset >= broker.epoch;
        let next = self.next_state(broker, r, caught_up);
        match next {
            Next::Fenced if !broker.fenced => self.fence(broker),
            Next::ShutDownNow if !broker.fenced => self.fence_stopped(broker),
            Next::Unfenced if broker.fenced => self.unfence(broker),
            Next::ControlledShutdown if !broker.in_controlled_shutdown => {
                self.begin_shutdown(broker);
            }
            // As it was. Leaders that a stopping broker still has wait for another replica.
            _ => {}
        }
        if next == Next::ShutDownNow {
            // It may be started again at once.
            self.sessions.end(broker.id);
        }
        if !r.offline_log_dirs.is_empty() {
            let offline: Vec<Uuid> = r.offline_log_dirs.iter().map(|d| uuid_of(d)).collect();
            self.directories_offline(broker, &offline);
        }
        self.cordon(broker, r.cordoned_log_dirs.as_ref());
        pb::HeartbeatReply {
            is_caught_up: caught_up,
            is_fenced: match next {
                Next::Fenced | Next::ShutDownNow => true,
                Next::ShutdownRefused(_) => broker.fenced,
                Next::Unfenced | Next::ControlledShutdown => false,
            },
            should_shut_down: next == Next::ShutDownNow,
            shutdown_refused: match next {
                Next::ShutdownRefused(why) => Some(why),
                _ => None,
            },
            ..pb::HeartbeatReply::default()
        }
    }

    fn next_state(
        &self,
        broker: &BrokerRegistration,
        r: &pb::HeartbeatRequest,
        caught_up: bool,
    ) -> Next {
        if broker.fenced {
            return match (r.want_shut_down, r.want_fence) {
                (true, _) => Next::ShutDownNow,
                (false, false) if caught_up && !self.backlog.holds(broker.id) => Next::Unfenced,
                (false, _) => Next::Fenced,
            };
        }
        if broker.in_controlled_shutdown {
            let done = !self.leads_any(broker.id)
                && self.sessions.shutdown_is_known(broker.id, self.image());
            return if done { Next::ShutDownNow } else { Next::ControlledShutdown };
        }
        match (r.want_fence, r.want_shut_down) {
            (true, true) => Next::ShutDownNow,
            (true, false) => Next::Fenced,
            (false, true) => self.begin_or_refuse_shutdown(broker, r.force_shut_down),
            (false, false) => Next::Unfenced,
        }
    }

    fn begin_or_refuse_shutdown(&self, broker: &BrokerRegistration, force: bool) -> Next {
        let refused = match force || self.everybody_else_stops(broker.id) {
            true => None,
            false => self.why_not_stop(broker.id),
        };
        match refused {
            Some(why) => Next::ShutdownRefused(why),
            None if self.leads_any(broker.id) => Next::ControlledShutdown,
            None => Next::ShutDownNow,
        }
    }

    /// Whether there are other brokers and each of them stops, or did so, by its own wish: then
    /// the cluster as a whole is being stopped, and nobody is served by whoever stays to the end.
    fn everybody_else_stops(&self, broker: NodeId) -> bool {
        let mut others = self.image().brokers().iter().filter(|b| b.id != broker).peekable();
        others.peek().is_some()
            && others.all(|b| b.in_controlled_shutdown || self.sessions.stops(b.id, b.epoch))
    }

    /// Why `broker` should not stop yet: a partition that it would leave with fewer in-sync
    /// replicas than `min.insync.replicas`, although its other replicas would be enough once they
    /// have caught up. Where they never are, waiting helps nobody.
    fn why_not_stop(&self, broker: NodeId) -> Option<String> {
        for (topic_id, partition) in self.in_isr_of(broker) {
            let Some(topic) = self.image().topics().by_id(topic_id) else { continue };
            let Some(p) = topic.partition(partition) else { continue };
            let min = self.min_isr(&topic.name, p.replicas.len());
            let brokers = self.image().brokers();
            let left = p.isr.iter().filter(|n| **n != broker && brokers.is_active(**n)).count();
            if left < min && p.replicas.len() > min {
                return Some(format!(
                    "without broker {broker}, partition {}-{partition} would have {left} in-sync \
                     replica(s), fewer than its min.insync.replicas of {min}",
                    topic.name
                ));
            }
        }
        None
    }

    /// As it wished, the broker has nothing left to do.
    fn fence_stopped(&mut self, broker: &BrokerRegistration) {
        self.fence(broker);
        if !broker.in_controlled_shutdown {
            let mut change = BrokerRegistrationChange::of(broker.id, broker.epoch);
            change.in_controlled_shutdown = Some(true);
            self.draft.push(Record::BrokerRegistrationChange(change));
        }
    }

    fn cordon(&mut self, broker: &BrokerRegistration, said: Option<&pb::DirList>) {
        let Some(said) = said else { return };
        let mut dirs: Vec<Uuid> = said.ids.iter().map(|d| uuid_of(d)).collect();
        dirs.sort_unstable();
        dirs.dedup();
        let news = broker.cordoned_dirs.as_ref() != Some(&dirs);
        if news && self.metadata_version() >= METADATA_VERSION_CORDONED {
            let mut change = BrokerRegistrationChange::of(broker.id, broker.epoch);
            change.cordoned_dirs = Some(dirs);
            self.draft.push(Record::BrokerRegistrationChange(change));
        }
    }

    pub(super) fn broker_gone(&mut self, broker: NodeId, epoch: i64) {
        let Ok(b) = self.broker_at(broker, epoch) else { return };
        self.sessions.end(broker);
        if !b.fenced {
            self.fence(&b);
        }
    }

    /// Fences the broker that has been silent for longest, if its session has ended.
    pub(super) fn end_one_session(&mut self) {
        let Some((broker, epoch)) = self.sessions.first_expired(self.now.mono) else { return };
        match self.broker_at(broker, epoch) {
            Ok(_) => self.broker_gone(broker, epoch),
            Err(_) => self.sessions.forget(broker),
        }
    }
}
