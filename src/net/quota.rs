//! How many connections there may be: in all, and from one address (`max.connections`,
//! `max.connections.per.ip`, `max.connections.per.ip.overrides`; `SocketServer.ConnectionQuotas`).

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// The limits. All may be changed while connections live; those that are too many stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// `max.connections`: with so many open, further ones wait in the backlog.
    pub total: usize,
    /// `max.connections.per.ip`: one more from the same address is closed at once.
    pub per_ip: usize,
    /// `max.connections.per.ip.overrides`: other limits for some addresses.
    pub overrides: BTreeMap<IpAddr, usize>,
}

impl Default for ConnectionLimits {
    /// Kafka's defaults: 2147483647 both.
    fn default() -> Self {
        Self { total: 0x7fff_ffff, per_ip: 0x7fff_ffff, overrides: BTreeMap::new() }
    }
}

#[derive(Debug, Default)]
struct State {
    limits: ConnectionLimits,
    total: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// Counts connections; shared by all listeners.
#[derive(Debug, Default)]
pub struct ConnectionQuota {
    state: Mutex<State>,
    freed: Notify,
}

/// A place for one connection, counted while it lives.
#[derive(Debug)]
pub(super) struct Slot {
    quota: Arc<ConnectionQuota>,
    ip: Option<IpAddr>,
}

impl ConnectionQuota {
    /// Counts by `limits`.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Self {
        let quota = Self::default();
        quota.set_limits(limits);
        quota
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the limits.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.state().limits = limits;
        self.freed.notify_waiters();
    }

    /// Connections open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.state().total
    }

    /// Takes a place if there is one.
    pub(super) fn try_slot(self: &Arc<Self>) -> Option<Slot> {
        let mut state = self.state();
        if state.total >= state.limits.total {
            return None;
        }
        state.total += 1;
        Some(Slot { quota: Arc::clone(self), ip: None })
    }

    /// Waits for a place.
    pub(super) async fn slot(self: &Arc<Self>) -> Slot {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(slot) = self.try_slot() {
                return slot;
            }
            freed.await;
        }
    }
}

impl Slot {
    /// Counts the connection to its address.
    ///
    /// # Errors
    /// The limit of that address, if it has no room.
    pub(super) fn admit(&mut self, ip: IpAddr) -> Result<(), usize> {
        // An IPv4 peer of an IPv6 socket is the IPv4 address that the overrides name.
        let ip = ip.to_canonical();
        let mut state = self.quota.state();
        let max = state.limits.overrides.get(&ip).copied().unwrap_or(state.limits.per_ip);
        let count = state.by_ip.entry(ip).or_default();
        if *count >= max {
            if *count == 0 {
                state.by_ip.remove(&ip);
            }
            return Err(max);
        }
        *count += 1;
        self.ip = Some(ip);
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.quota.state();
        state.total = state.total.saturating_sub(1);
        if let Some(ip) = self.ip
            && let Some(count) = state.by_ip.get_mut(&ip)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                state.by_ip.remove(&ip);
            }
        }
        drop(state);
        self.quota.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_own_limits() {
        let [a, b]: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let limits =
            ConnectionLimits { total: 4, per_ip: 1, overrides: [(b, 2)].into_iter().collect() };
        let quota = Arc::new(ConnectionQuota::new(limits));
        let open = |ip: IpAddr| {
            let mut slot = quota.try_slot().unwrap();
            slot.admit(ip).map(|()| slot)
        };
        let first = open(a).unwrap();
        assert_eq!(open("::ffff:10.0.0.1".parse().unwrap()).unwrap_err(), 1);
        let (_x, _y) = (open(b).unwrap(), open(b).unwrap());
        assert_eq!(open(b).unwrap_err(), 2);
        assert_eq!(quota.open(), 3);
        drop(first);
        let _again = open(a).unwrap();
        let _last = quota.try_slot().unwrap();
        assert!(quota.try_slot().is_none());
    }
}
