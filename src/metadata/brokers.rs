//! Brokers and controllers as they registered.

use std::{collections::BTreeMap, sync::Arc};

use imbl::OrdMap;

use crate::base::{NodeId, Uuid};

use super::{
    delta::ReplayError,
    record::{BrokerRegistrationChange, Record, RegisterBroker, RegisterController},
};

/// One address of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The listener's name, such as `PLAINTEXT`.
    pub name: Arc<str>,
    /// Host name or address.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// Kafka's number of the protocol: 0 PLAINTEXT, 1 SSL, 2 `SASL_PLAINTEXT`, 3 `SASL_SSL`.
    pub security_protocol: i16,
}

/// Levels of a feature, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest.
    pub min: i16,
    /// The highest.
    pub max: i16,
}

impl VersionRange {
    /// Whether `level` is within.
    #[must_use]
    pub const fn contains(self, level: i16) -> bool {
        self.min <= level && level <= self.max
    }
}

/// Supported levels by feature name.
pub type SupportedFeatures = BTreeMap<Arc<str>, VersionRange>;

/// A broker as it registered, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRegistration {
    /// Its id.
    pub id: NodeId,
    /// Its epoch: the offset of the record that registered this incarnation.
    pub epoch: i64,
    /// One life of its process.
    pub incarnation: Uuid,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// What it supports.
    pub features: SupportedFeatures,
    /// Its rack.
    pub rack: Option<Arc<str>>,
    /// Its online log directories, sorted.
    pub log_dirs: Vec<Uuid>,
    /// Whether it is fenced: no leader, not in any new ISR, unknown to clients.
    pub fenced: bool,
    /// Whether it is shutting down.
    pub in_controlled_shutdown: bool,
    /// Log directories that take no new replicas (KIP-1066), sorted; `None` until the broker has
    /// said which.
    pub cordoned_dirs: Option<Vec<Uuid>>,
}

impl BrokerRegistration {
    /// Whether it may lead and be in an ISR: neither fenced nor shutting down.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }

    /// The endpoint of the listener of that name.
    #[must_use]
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|e| &*e.name == listener)
    }

    /// Whether a replica in `dir` can be served: the directory is online, or not chosen yet
    /// (`DirectoryId.isOnline`).
    #[must_use]
    pub fn has_online_dir(&self, dir: Uuid) -> bool {
        dir == Uuid::UNASSIGNED_DIR || dir.is_zero() || self.log_dirs.binary_search(&dir).is_ok()
    }

    /// Whether new replicas may be placed on it: one of its directories at least is not cordoned.
    #[must_use]
    pub fn takes_replicas(&self) -> bool {
        let Some(cordoned) = &self.cordoned_dirs else { return true };
        self.log_dirs.is_empty() || self.log_dirs.iter().any(|d| cordoned.binary_search(d).is_err())
    }

    fn to_record(&self) -> RegisterBroker {
        RegisterBroker {
            id: self.id,
            incarnation: self.incarnation,
            epoch: Some(self.epoch),
            endpoints: self.endpoints.clone(),
            features: self.features.iter().map(|(k, v)| (Arc::clone(k), *v)).collect(),
            rack: self.rack.clone(),
            log_dirs: self.log_dirs.clone(),
            fenced: self.fenced,
            in_controlled_shutdown: self.in_controlled_shutdown,
            cordoned_dirs: self.cordoned_dirs.clone(),
        }
    }
}

/// A controller as it registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerRegistration {
    /// Its id.
    pub id: NodeId,
    /// One life of its process.
    pub incarnation: Uuid,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// What it supports.
    pub features: SupportedFeatures,
}

/// All brokers and controllers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Brokers {
    brokers: OrdMap<NodeId, Arc<BrokerRegistration>>,
    controllers: OrdMap<NodeId, Arc<ControllerRegistration>>,
}

impl Brokers {
    /// The broker of that id.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<&Arc<BrokerRegistration>> {
        self.brokers.get(&id)
    }

    /// All brokers, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<BrokerRegistration>> {
        self.brokers.values()
    }

    /// The brokers that are not fenced, by id.
    pub fn alive(&self) -> impl Iterator<Item = &Arc<BrokerRegistration>> {
        self.brokers.values().filter(|b| !b.fenced)
    }

    /// Whether the broker is registered, unfenced and not shutting down.
    #[must_use]
    pub fn is_active(&self, id: NodeId) -> bool {
        self.get(id).is_some_and(|b| b.is_active())
    }

    /// How many brokers are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.brokers.len()
    }

    /// Whether none is registered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.brokers.is_empty()
    }

    /// The controller of that id.
    #[must_use]
    pub fn controller(&self, id: NodeId) -> Option<&Arc<ControllerRegistration>> {
        self.controllers.get(&id)
    }

    /// All controllers, by id.
    pub fn controllers(&self) -> impl Iterator<Item = &Arc<ControllerRegistration>> {
        self.controllers.values()
    }

    pub(super) fn register(&mut self, r: &RegisterBroker, offset: i64) {
        let registration = BrokerRegistration {
            id: r.id,
            epoch: r.epoch.unwrap_or(offset),
            incarnation: r.incarnation,
            endpoints: r.endpoints.clone(),
            features: r.features.iter().cloned().collect(),
            rack: r.rack.clone(),
            log_dirs: r.log_dirs.clone(),
            fenced: r.fenced,
            in_controlled_shutdown: r.in_controlled_shutdown,
            cordoned_dirs: r.cordoned_dirs.clone(),
        };
        self.brokers.insert(r.id, Arc::new(registration));
    }

    pub(super) fn change(&mut self, c: &BrokerRegistrationChange) -> Result<(), ReplayError> {
        let old = self.known(c.id, c.epoch)?;
        let mut new = BrokerRegistration::clone(old);
        new.fenced = c.fenced.unwrap_or(new.fenced);
        new.in_controlled_shutdown = c.in_controlled_shutdown.unwrap_or(new.in_controlled_shutdown);
        if let Some(dirs) = &c.log_dirs {
            new.log_dirs.clone_from(dirs);
        }
        if c.cordoned_dirs.is_some() {
            new.cordoned_dirs.clone_from(&c.cordoned_dirs);
        }
        self.brokers.insert(c.id, Arc::new(new));
        Ok(())
    }

    pub(super) fn unregister(&mut self, id: NodeId, epoch: i64) -> Result<(), ReplayError> {
        self.known(id, epoch)?;
        self.brokers.remove(&id);
        Ok(())
    }

    pub(super) fn register_controller(&mut self, r: &RegisterController) {
        let registration = ControllerRegistration {
            id: r.id,
            incarnation: r.incarnation,
            endpoints: r.endpoints.clone(),
            features: r.features.iter().cloned().collect(),
        };
        self.controllers.insert(r.id, Arc::new(registration));
    }

    fn known(&self, id: NodeId, epoch: i64) -> Result<&Arc<BrokerRegistration>, ReplayError> {
        let b = self.brokers.get(&id).ok_or(ReplayError::UnknownBroker { id })?;
        if b.epoch != epoch {
            return Err(ReplayError::OtherBrokerEpoch { id, epoch, known: b.epoch });
        }
        Ok(b)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let controllers = self.controllers.values().map(|c| {
            Record::RegisterController(RegisterController {
                id: c.id,
                incarnation: c.incarnation,
                endpoints: c.endpoints.clone(),
                features: c.features.iter().map(|(k, v)| (Arc::clone(k), *v)).collect(),
            })
        });
        controllers.chain(self.brokers.values().map(|b| Record::RegisterBroker(b.to_record())))
    }
}
