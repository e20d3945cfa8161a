//! Sessions of brokers: when each was heard of, and how far it has read the metadata. Known to the
//! active controller alone and lost with its activity (`BrokerHeartbeatManager.java`).

use std::collections::BTreeMap;

use crate::base::{Mono, NodeId, Offset};
use crate::metadata::Image;

use super::core::Settings;

#[derive(Debug, Clone, Copy)]
struct Session {
    epoch: i64,
    /// When it was heard of; `None` before its first heartbeat and after its session ended.
    contact: Option<Mono>,
    /// The newest metadata it said it has.
    metadata_offset: Offset,
    /// Whether this incarnation keeps the id from others while its session lasts.
    holds_id: bool,
    /// Its last heartbeat asked to shut down.
    stops: bool,
    /// Every active broker must have read up to here before it may stop.
    shutdown_offset: Option<Offset>,
}

/// What a heartbeat tells of its sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Contact {
    /// The newest metadata it has.
    pub(super) offset: Offset,
    /// Whether it asks to shut down.
    pub(super) stops: bool,
}

/// All sessions.
#[derive(Debug)]
pub(super) struct Sessions {
    timeout_ms: i64,
    by_broker: BTreeMap<NodeId, Session>,
}

impl Sessions {
    /// Every unfenced broker of `image` counts as just heard of. The broker in this very process
    /// does not keep its id by that: nobody else has it, and a new incarnation of it says that the
    /// old one ended with the process before.
    pub(super) fn of(image: &Image, settings: &Settings, now: Mono) -> Self {
        let timeout_ms = settings.session_timeout_ms;
        let mut sessions = Self { timeout_ms, by_broker: BTreeMap::new() };
        for b in image.brokers().iter() {
            sessions.by_broker.insert(
                b.id,
                Session {
                    epoch: b.epoch,
                    contact: (!b.fenced).then_some(now),
                    metadata_offset: -1,
                    holds_id: b.id != settings.node,
                    stops: false,
                    shutdown_offset: b.in_controlled_shutdown.then_some(image.position.offset),
                },
            );
        }
        sessions
    }

    fn end_of(&self, contact: Mono) -> Mono {
        contact.after_ms(self.timeout_ms)
    }

    /// Whether this incarnation keeps its id: it was heard of within the session timeout, and its
    /// connection is not known to have broken since.
    pub(super) fn holds_id(&self, broker: NodeId, epoch: i64, now: Mono) -> bool {
        self.by_broker
            .get(&broker)
            .filter(|s| s.epoch == epoch && s.holds_id)
            .and_then(|s| s.contact)
            .is_some_and(|c| now < self.end_of(c))
    }

    /// A heartbeat came.
    pub(super) fn touch(&mut self, broker: NodeId, epoch: i64, said: Contact, now: Mono) {
        let fresh = Session {
            epoch,
            contact: None,
            metadata_offset: said.offset,
            holds_id: true,
            stops: said.stops,
            shutdown_offset: None,
        };
        let s = self.by_broker.entry(broker).or_insert(fresh);
        if s.epoch != epoch {
            *s = fresh;
        }
        s.contact = Some(now);
        s.holds_id = true;
        s.stops = said.stops;
        s.metadata_offset = said.offset;
    }

    /// Whether this incarnation asked to shut down when it was last heard of.
    pub(super) fn stops(&self, broker: NodeId, epoch: i64) -> bool {
        self.by_broker.get(&broker).is_some_and(|s| s.epoch == epoch && s.stops)
    }

    /// The controller itself stood still, and heard of nobody: every session that lasts begins
    /// anew.
    pub(super) fn renew(&mut self, now: Mono) {
        for contact in self.by_broker.values_mut().filter_map(|s| s.contact.as_mut()) {
            *contact = now;
        }
    }

    /// The process of `broker` was last heard of at `heard`, by another way than its heartbeats and
    /// before this controller took office: its session lasts since then. Half a session is left to
    /// it in any case, to find its new controller.
    pub(super) fn heard_before(&mut self, broker: NodeId, heard: Mono, now: Mono) {
        let half = Mono::default().after_ms(self.timeout_ms / 2);
        let earliest = Mono(now.0.saturating_sub(half.0));
        let contact = self.by_broker.get_mut(&broker).and_then(|s| s.contact.as_mut());
        if let Some(contact) = contact {
            *contact = heard.max(earliest).min(*contact);
        }
    }

    /// The connection of this incarnation broke.
    pub(super) fn disconnected(&mut self, broker: NodeId, epoch: i64) {
        if let Some(s) = self.by_broker.get_mut(&broker).filter(|s| s.epoch == epoch) {
            s.holds_id = false;
        }
    }

    /// The broker is to be heard of anew: another incarnation registered, or it was unregistered.
    pub(super) fn forget(&mut self, broker: NodeId) {
        self.by_broker.remove(&broker);
    }

    /// Forgets the session unless it is that incarnation's.
    pub(super) fn forget_other(&mut self, broker: NodeId, epoch: i64) {
        if self.by_broker.get(&broker).is_some_and(|s| s.epoch != epoch) {
            self.by_broker.remove(&broker);
        }
    }

    /// The broker's session ended.
    pub(super) fn end(&mut self, broker: NodeId) {
        if let Some(s) = self.by_broker.get_mut(&broker) {
            s.contact = None;
        }
    }

    /// The broker that has been silent for longest beyond the timeout, with its epoch.
    pub(super) fn first_expired(&self, now: Mono) -> Option<(NodeId, i64)> {
        self.by_broker
            .iter()
            .filter_map(|(id, s)| Some((s.contact?, *id, s.epoch)))
            .filter(|(contact, ..)| self.end_of(*contact) <= now)
            .min()
            .map(|(_, id, epoch)| (id, epoch))
    }

    /// When the next session ends if nothing is heard.
    pub(super) fn next_end(&self) -> Mono {
        let contacts = self.by_broker.values().filter_map(|s| s.contact);
        contacts.min().map_or(Mono::NEVER, |c| self.end_of(c))
    }

    /// The broker entered controlled shutdown with the entry at `offset`.
    pub(super) fn shutting_down(&mut self, broker: NodeId, offset: Offset) {
        if let Some(s) = self.by_broker.get_mut(&broker) {
            s.shutdown_offset.get_or_insert(offset);
        }
    }

    /// Whether a broker is in controlled shutdown.
    pub(super) fn any_shutting_down(&self) -> bool {
        self.by_broker.values().any(|s| s.shutdown_offset.is_some())
    }

    /// If the broker is in controlled shutdown, the entry at `offset` took a leadership from it,
    /// which every active broker must have read too.
    pub(super) fn lost_leadership(&mut self, broker: NodeId, offset: Offset) {
        let session = self.by_broker.get_mut(&broker);
        if let Some(until) = session.and_then(|s| s.shutdown_offset.as_mut()) {
            *until = offset.max(*until);
        }
    }

    /// The broker is fenced, which ends its controlled shutdown.
    pub(super) fn fenced(&mut self, broker: NodeId) {
        if let Some(s) = self.by_broker.get_mut(&broker) {
            s.shutdown_offset = None;
        }
    }

    /// Whether every active broker has read what the shutdown of `broker` decided.
    pub(super) fn shutdown_is_known(&self, broker: NodeId, image: &Image) -> bool {
        let Some(until) = self.by_broker.get(&broker).and_then(|s| s.shutdown_offset) else {
            return false;
        };
        let active = image.brokers().iter().filter(|b| b.is_active());
        active
            .map(|b| self.by_broker.get(&b.id).map_or(-1, |s| s.metadata_offset))
            .all(|offset| until <= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(1);

    fn ms(n: i64) -> Mono {
        Mono(0).after_ms(n)
    }

    fn sessions() -> Sessions {
        Sessions { timeout_ms: 9000, by_broker: BTreeMap::new() }
    }

    fn said(offset: Offset) -> Contact {
        Contact { offset, stops: false }
    }

    #[test]
    fn a_session_lasts_for_the_timeout_and_holds_the_id() {
        let mut s = sessions();
        s.touch(NODE, 5, said(7), ms(100));
        assert!(s.holds_id(NODE, 5, ms(9099)));
        assert!(!s.holds_id(NODE, 5, ms(9100)), "it ended");
        assert!(!s.holds_id(NODE, 6, ms(200)), "another incarnation");
        assert_eq!((s.first_expired(ms(9099)), s.next_end()), (None, ms(9100)));
        assert_eq!(s.first_expired(ms(9100)), Some((NODE, 5)));
        s.end(NODE);
        assert_eq!((s.first_expired(ms(9100)), s.next_end()), (None, Mono::NEVER));
    }

    #[test]
    fn a_broken_connection_gives_the_id_up_until_the_next_heartbeat() {
        let mut s = sessions();
        s.touch(NODE, 5, said(7), ms(0));
        s.disconnected(NODE, 4);
        assert!(s.holds_id(NODE, 5, ms(1)), "the connection of an earlier incarnation");
        s.disconnected(NODE, 5);
        assert!(!s.holds_id(NODE, 5, ms(1)));
        assert_eq!(s.next_end(), ms(9000), "it is not fenced by that");
        s.touch(NODE, 5, said(7), ms(2));
        assert!(s.holds_id(NODE, 5, ms(3)));
    }

    #[test]
    fn sessions_begin_anew_after_the_controller_stood_still() {
        let mut s = sessions();
        s.touch(NODE, 5, said(7), ms(0));
        s.touch(NodeId(2), 6, said(7), ms(0));
        s.end(NodeId(2));
        s.renew(ms(20_000));
        assert_eq!(s.first_expired(ms(28_999)), None);
        assert_eq!(s.first_expired(ms(29_000)), Some((NODE, 5)));
        s.end(NODE);
        assert_eq!(s.next_end(), Mono::NEVER, "what has ended does not begin again");
    }

    #[test]
    fn what_is_known_of_a_process_counts_in_the_next_office() {
        let mut s = sessions();
        for id in 1..=3 {
            s.touch(NodeId(id), 5, said(7), ms(10_000));
        }
        s.heard_before(NODE, ms(8_000), ms(10_000));
        s.heard_before(NodeId(2), ms(0), ms(10_000));
        s.heard_before(NodeId(3), ms(11_000), ms(10_000));
        s.heard_before(NodeId(4), ms(0), ms(10_000));
        assert_eq!(s.first_expired(ms(14_500)), Some((NodeId(2), 5)), "half a session is left");
        s.end(NodeId(2));
        assert_eq!(s.first_expired(ms(16_999)), None);
        assert_eq!(s.first_expired(ms(17_000)), Some((NODE, 5)));
        s.touch(NODE, 5, said(7), ms(10_100));
        assert_eq!(s.next_end(), ms(19_000), "no session is made longer");
    }

    #[test]
    fn the_silent_for_longest_goes_first() {
        let mut s = sessions();
        for (id, at) in [(1, 30), (2, 10), (3, 20)] {
            s.touch(NodeId(id), 5, said(7), ms(at));
        }
        assert_eq!(s.first_expired(ms(20_000)), Some((NodeId(2), 5)));
        s.forget(NodeId(2));
        assert_eq!(s.first_expired(ms(20_000)), Some((NodeId(3), 5)));
    }

    #[test]
    fn a_wish_to_stop_is_known_of_that_incarnation() {
        let mut s = sessions();
        s.touch(NODE, 5, Contact { offset: 7, stops: true }, ms(0));
        s.end(NODE);
        assert!(s.stops(NODE, 5) && !s.stops(NODE, 6));
        s.touch(NODE, 6, said(7), ms(1));
        assert!(!s.stops(NODE, 6) && !s.stops(NODE, 5));
    }
}
