//! Where a node learns metadata from, and the fan-out behind it: one publisher, many subscribers,
//! every update to each of them in commit order. Uses `metadata`.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{mpsc, watch};

use super::{
    network::Caller,
    settings::{Leadership, Voter},
};
use crate::metadata::{Image, Position, Update};

/// The image as of the subscription and every update after it; none is lost. A subscriber that
/// stops reading keeps the updates in memory, so it must read or drop this.
#[derive(Debug)]
pub struct Subscription {
    /// The image that the first update applies to.
    pub image: Arc<Image>,
    /// The updates, in commit order.
    pub updates: mpsc::UnboundedReceiver<Update>,
}

/// Where a node learns metadata from: the quorum member in its own process, or the observer's
/// stream from one in another. Callers see no difference.
pub trait MetadataSource: Send + Sync + fmt::Debug {
    /// The latest image.
    fn image(&self) -> Arc<Image>;
    /// The latest image and all that follows.
    fn subscribe(&self) -> Subscription;
    /// Who leads, as far as this node knows.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// Where the controllers listen.
    fn voters(&self) -> Arc<[Voter]>;
    /// What calls to controllers are signed with.
    fn caller(&self) -> Caller;
    /// Offset after the last metadata entry known to be committed anywhere: an image that reaches
    /// it lacks nothing that this node may have acted on. An observer learns it from a leader only;
    /// `i64::MAX` before.
    fn high_watermark(&self) -> i64;
}

#[derive(Debug)]
struct Fan {
    image: Arc<Image>,
    subscribers: Vec<mpsc::UnboundedSender<Update>>,
}

/// Hands updates to subscribers.
#[derive(Debug)]
pub(crate) struct Publisher {
    fan: Mutex<Fan>,
    position: watch::Sender<Position>,
}

impl Publisher {
    pub(crate) fn new(image: Arc<Image>) -> Self {
        let position = watch::Sender::new(image.position);
        Self { fan: Mutex::new(Fan { image, subscribers: Vec::new() }), position }
    }

    fn fan(&self) -> MutexGuard<'_, Fan> {
        // Nothing below panics halfway through a change.
        self.fan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called in commit order, by one caller.
    pub(crate) fn publish(&self, update: Update) {
        let position = update.image.position;
        let mut fan = self.fan();
        fan.image = Arc::clone(&update.image);
        fan.subscribers.retain(|s| s.send(update.clone()).is_ok());
        drop(fan);
        self.position.send_replace(position);
    }

    pub(crate) fn image(&self) -> Arc<Image> {
        Arc::clone(&self.fan().image)
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        let (tx, updates) = mpsc::unbounded_channel();
        let mut fan = self.fan();
        fan.subscribers.push(tx);
        Subscription { image: Arc::clone(&fan.image), updates }
    }

    /// Follows the place in the log of the latest image.
    pub(crate) fn position(&self) -> watch::Receiver<Position> {
        self.position.subscribe()
    }

    /// Lets go of all subscribers: their streams end.
    pub(crate) fn close(&self) {
        self.fan().subscribers.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Loader, Record};

    #[test]
    fn no_subscriber_misses_an_update() {
        let mut loader = Loader::default();
        let publisher = Publisher::new(Arc::clone(loader.image()));
        let mut first = publisher.subscribe();
        let step = |n, loader: &mut Loader| {
            let at = Position { offset: n, epoch: 1 };
            loader.load_batch(at, &[Record::NoOp]).unwrap().unwrap()
        };
        publisher.publish(step(0, &mut loader));
        let mut second = publisher.subscribe();
        publisher.publish(step(1, &mut loader));
        let offsets = |s: &mut Subscription| {
            std::iter::from_fn(|| s.updates.try_recv().ok())
                .map(|u| u.image.position.offset)
                .collect::<Vec<_>>()
        };
        assert_eq!(first.image.position, Position::START);
        assert_eq!(offsets(&mut first), [0, 1]);
        assert_eq!(second.image.position.offset, 0);
        assert_eq!(offsets(&mut second), [1]);
        assert_eq!(publisher.position().borrow().offset, 1);
    }
}
