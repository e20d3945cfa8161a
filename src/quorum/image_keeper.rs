//! Keeps `image.redb` behind the image, off every hot path: every so often the rows that changed
//! are brought up to date in one step. Uses `metadata`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::time::Instant;

use super::{
    checkpoint::Header,
    image_store::{ImageStore, PARTITIONS_MIN, Part, StoreError, StorePlace, partitions},
    log_store::LogStore,
    machine::Raft,
    source::Subscription,
    types::{self, StoredVoters},
};
use crate::metadata::{Image, Update};

/// The store is this much behind at most, unless the disk is slower.
const EVERY: Duration = Duration::from_secs(30);
/// Or so many rows.
const ROWS_MAX: usize = 64 * 1024;

/// What a node has besides the store.
pub(crate) enum Beside {
    /// A member of the quorum has a log and checkpoints.
    Log(Raft, LogStore),
    /// An observer has nothing.
    Nothing,
}

impl Beside {
    fn voters(&self) -> StoredVoters {
        match self {
            Self::Log(raft, _) => {
                let voters = raft.server_metrics();
                let voters = voters.borrow_watched().committed_membership_config.clone();
                voters.as_ref().clone()
            }
            Self::Nothing => StoredVoters::default(),
        }
    }

    /// The store must never be ahead of the log.
    async fn flush(&self) -> std::io::Result<()> {
        match self {
            Self::Log(_, log) => log.flush().await,
            Self::Nothing => Ok(()),
        }
    }

    fn partitions_min(&self) -> i64 {
        match self {
            Self::Log(..) => PARTITIONS_MIN,
            Self::Nothing => 0,
        }
    }
}

/// Follows the image from where the store is.
pub(crate) struct ImageKeeper {
    pub(crate) beside: Beside,
    pub(crate) place: StorePlace,
    /// The store, if the machine began with its image.
    pub(crate) store: Option<Arc<ImageStore>>,
    /// From the machine's first image on.
    pub(crate) subscription: Subscription,
}

impl ImageKeeper {
    /// Ends, after the last image was stored, with the stream of updates.
    pub(crate) async fn run(mut self) {
        let mut image = Arc::clone(&self.subscription.image);
        let mut kept = image.position;
        let mut parts = BTreeSet::new();
        let mut due = Instant::now() + EVERY;
        let mut ended = false;
        while !ended {
            tokio::select! {
                update = self.subscription.updates.recv() => match update {
                    Some(update) => {
                        image = self.note(update, &mut parts);
                        if parts.len() < ROWS_MAX {
                            continue;
                        }
                    }
                    None => ended = true,
                },
                () = tokio::time::sleep_until(due) => {}
            }
            due = Instant::now() + EVERY;
            let many = partitions(&image) >= self.beside.partitions_min();
            let wanted = self.store.is_some() || many;
            if image.position == kept || !wanted {
                continue;
            }
            if let Err(e) = self.save(Arc::clone(&image), std::mem::take(&mut parts)).await {
                // The next start has checkpoint and log.
                tracing::warn!("the image is not stored any longer: {e}");
                return;
            }
            kept = image.position;
        }
    }

    fn note(&self, update: Update, parts: &mut BTreeSet<Part>) -> Arc<Image> {
        if self.store.is_some() {
            Part::touched(&update.delta, parts);
        }
        update.image
    }

    async fn save(&mut self, image: Arc<Image>, parts: BTreeSet<Part>) -> Result<(), StoreError> {
        let last_log_id = types::log_id_at(image.position);
        let header = Header { last_log_id, voters: self.beside.voters() };
        self.beside.flush().await.map_err(redb::Error::Io)?;
        let (store, place) = (self.store.take(), self.place.clone());
        let saving = tokio::task::spawn_blocking(move || {
            let saved = match store {
                Some(store) => store.update(&header, &image, &parts).map(|()| store),
                None => place.create(&header, &image).map(Arc::new),
            };
            if saved.is_err() {
                place.remove().map_err(redb::Error::Io)?;
            }
            saved
        });
        let saved = saving.await.map_err(|e| redb::Error::Io(std::io::Error::other(e)))?;
        self.store = Some(saved?);
        Ok(())
    }
}
