//! Nodes: registration of brokers and controllers, and the end of a registration
//! (`ClusterControlManager.java`). Uses `metadata`.

use std::{collections::BTreeSet, sync::Arc};

use crate::base::{ErrorCode, Mutant, NodeId, Uuid, mutant};
use crate::metadata::features::METADATA_VERSION;
use crate::metadata::record::{RegisterBroker, RegisterController};
use crate::metadata::{BrokerRegistration, Endpoint, Record, VersionRange};
use crate::pb::controller as pb;

use super::{
    command::{Outcome, Refusal, SubmitBody, error_fields},
    turn::{Turn, uuid_of},
};

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidRegistration, text)
}

fn endpoints_of(list: &[pb::Endpoint]) -> Result<Vec<Endpoint>, Refusal> {
    let one = |e: &pb::Endpoint| {
        let port = u16::try_from(e.port);
        let protocol = i16::try_from(e.security_protocol);
        let port = port.map_err(|_| invalid(format!("Port {} is above 65535", e.port)))?;
        let security_protocol = protocol.map_err(|_| invalid("Unknown security protocol"))?;
        let (name, host) = (e.name.as_str().into(), e.host.as_str().into());
        Ok(Endpoint { name, host, port, security_protocol })
    };
    list.iter().map(one).collect()
}

type Ranges = Vec<(Arc<str>, VersionRange)>;

fn ranges_of(list: &[pb::FeatureRange]) -> Result<Ranges, Refusal> {
    let one = |f: &pb::FeatureRange| {
        let bad = || invalid(format!("Feature {} has a bad range", f.name));
        let min = i16::try_from(f.min).map_err(|_| bad())?;
        let max = i16::try_from(f.max).map_err(|_| bad())?;
        if min < 0 || max < min {
            return Err(bad());
        }
        Ok((f.name.as_str().into(), VersionRange { min, max }))
    };
    list.iter().map(one).collect()
}

impl Turn<'_> {
    pub(super) fn register_broker(&mut self, c: &pb::RegisterBroker) -> Outcome {
        let incarnation = uuid_of(&c.incarnation_id);
        let result = self.try_register(c, incarnation);
        let (error, error_message) = error_fields(&result);
        let body = pb::RegisterBrokerReply { error, error_message, broker_epoch: -1 };
        let outcome = Outcome::submit(0, None, SubmitBody::RegisterBroker(body));
        if result.is_ok() {
            outcome.registration(NodeId(c.broker_id), incarnation)
        } else {
            outcome
        }
    }

    fn try_register(&mut self, c: &pb::RegisterBroker, incarnation: Uuid) -> Result<(), Refusal> {
        let id = NodeId(c.broker_id);
        if *c.cluster_id != *self.settings.cluster_id {
            let text = format!(
                "Expected cluster ID {}, but got cluster ID {}",
                self.settings.cluster_id, c.cluster_id
            );
            return Err(Refusal::new(ErrorCode::InconsistentClusterId, text));
        }
        if c.broker_id < 0 || incarnation.is_zero() {
            return Err(invalid("The broker id or the incarnation id is not usable"));
        }
        let existing = self.image().brokers().get(id).cloned();
        self.refuse_second_life(existing.as_deref(), incarnation)?;
        let log_dirs = self.check_dirs(id, &c.log_dirs)?;
        let endpoints = endpoints_of(&c.endpoints)?;
        let features = ranges_of(&c.features)?;
        self.check_features(&features)?;
        let same = existing.as_deref().filter(|b| b.incarnation == incarnation);
        if same.is_none() {
            let stored = existing.as_ref().map(|b| b.epoch);
            let clean = stored == Some(c.previous_broker_epoch);
            self.incarnation_ended(id, clean || mutant(Mutant::UncleanStaysEligible));
            self.refuse_while_leaving(existing.as_deref(), id)?;
            self.sessions.forget(id);
        }
        self.draft.push(Record::RegisterBroker(RegisterBroker {
            id,
            incarnation,
            epoch: same.map(|b| b.epoch),
            endpoints,
            features,
            rack: c.rack.as_deref().map(Into::into),
            log_dirs,
            fenced: same.is_none_or(|b| b.fenced),
            in_controlled_shutdown: same.is_some_and(|b| b.in_controlled_shutdown),
            cordoned_dirs: same.and_then(|b| b.cordoned_dirs.clone()),
        }));
        Ok(())
    }

    /// Another process with this id that is alive keeps the id.
    fn refuse_second_life(
        &self,
        existing: Option<&BrokerRegistration>,
        incarnation: Uuid,
    ) -> Result<(), Refusal> {
        let Some(b) = existing.filter(|b| b.incarnation != incarnation) else { return Ok(()) };
        if self.sessions.holds_id(b.id, b.epoch, self.now.mono) {
            let text = "Another broker is registered with that broker id. If the broker was \
                        recently restarted this should self-resolve once the heartbeat manager \
                        expires the broker's session.";
            return Err(Refusal::new(ErrorCode::DuplicateBrokerRegistration, text));
        }
        Ok(())
    }

    /// What an unclean end took from the broker is known by this registration alone: it is not
    /// taken before every partition has been told.
    fn refuse_while_leaving(
        &mut self,
        existing: Option<&BrokerRegistration>,
        id: NodeId,
    ) -> Result<(), Refusal> {
        if !self.backlog.holds(id) {
            return Ok(());
        }
        if let Some(b) = existing.filter(|b| !b.fenced) {
            self.fence(b);
        }
        let text = "The broker's last incarnation is still being taken out of its partitions. This \
                    resolves itself within seconds.";
        Err(Refusal::new(ErrorCode::DuplicateBrokerRegistration, text))
    }

    fn check_dirs(&self, id: NodeId, dirs: &[impl AsRef<[u8]>]) -> Result<Vec<Uuid>, Refusal> {
        if dirs.is_empty() {
            return Err(invalid("No directories specified in request"));
        }
        let set: BTreeSet<Uuid> = dirs.iter().map(|d| uuid_of(d.as_ref())).collect();
        if set.iter().any(Uuid::is_reserved) {
            return Err(invalid("Reserved directory ID in request"));
        }
        if set.len() != dirs.len() {
            return Err(invalid("Duplicate directory ID in request"));
        }
        for b in self.image().brokers().iter().filter(|b| b.id != id) {
            if let Some(dir) = b.log_dirs.iter().find(|d| set.contains(d)) {
                let text = format!("Broker {} is already registered with directory {dir}", b.id);
                return Err(invalid(text));
            }
        }
        Ok(set.into_iter().collect())
    }

    /// Every finalized level must lie within what the broker supports; a feature that it does not
    /// name is one that it supports at level 0 only.
    fn check_features(&self, ranges: &Ranges) -> Result<(), Refusal> {
        if !ranges.iter().any(|(name, _)| &**name == METADATA_VERSION) {
            return Err(invalid("Request features do not contain 'metadata.version'"));
        }
        let none = VersionRange { min: 0, max: 0 };
        let finalized = self.image().features();
        let named = ranges.iter().map(|(name, range)| (name, *range, finalized.level(name)));
        let unnamed = finalized
            .iter()
            .filter(|(name, _)| !ranges.iter().any(|(n, _)| n == *name))
            .map(|(name, level)| (name, none, level));
        for (name, range, level) in named.chain(unnamed) {
            if !range.contains(level) {
                let text = format!(
                    "Unable to register because the broker does not support finalized version \
                     {level} of {name}. The broker wants a version between {} and {}, inclusive.",
                    range.min, range.max
                );
                return Err(Refusal::new(ErrorCode::UnsupportedVersion, text));
            }
        }
        Ok(())
    }

    pub(super) fn unregister_broker(&mut self, c: &pb::UnregisterBroker) -> Outcome {
        let result = match self.image().brokers().get(NodeId(c.broker_id)).cloned() {
            Some(b) => {
                self.unregister(&b);
                Ok(())
            }
            None => {
                let text = format!("Broker ID {} is not currently registered", c.broker_id);
                Err(Refusal::new(ErrorCode::BrokerIdNotRegistered, text))
            }
        };
        let (error, error_message) = error_fields(&result);
        let body = pb::UnregisterBrokerReply { error, error_message };
        Outcome::submit(0, None, SubmitBody::UnregisterBroker(body))
    }

    pub(super) fn register_controller(&mut self, c: &pb::RegisterController) -> Outcome {
        let result = self.try_register_controller(c);
        let (error, error_message) = error_fields(&result);
        let body = pb::RegisterControllerReply { error, error_message };
        Outcome::submit(0, None, SubmitBody::RegisterController(body))
    }

    fn try_register_controller(&mut self, c: &pb::RegisterController) -> Result<(), Refusal> {
        if c.controller_id < 0 {
            return Err(invalid("The controller id is negative"));
        }
        let record = RegisterController {
            id: NodeId(c.controller_id),
            incarnation: uuid_of(&c.incarnation_id),
            endpoints: endpoints_of(&c.endpoints)?,
            features: ranges_of(&c.features)?,
        };
        self.draft.push(Record::RegisterController(record));
        Ok(())
    }
}
