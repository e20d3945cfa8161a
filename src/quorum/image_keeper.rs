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
    types,
};
use crate::metadata::{Image, Update};

/// The store is this much behind at most, unless the disk is slower.
const EVERY: Duration = Duration::from_secs(30);
/// Or so many rows.
const ROWS_MAX: usize = 64 * 1024;

/// Follows the image from where the store is.
pub(crate) struct ImageKeeper {
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) place: StorePlace,
    /// The store, if the machine began with its image.
    pub(crate) store: Option<Arc<ImageStore>>,
    /// From the machine's first image on.
    pub(crate) subscription: Subscription,
}

impl ImageKeeper {
    pub(crate) async fn run(mut self) {
        let mut image = Arc::clone(&self.subscription.image);
        let mut kept = image.position;
        let mut parts = BTreeSet::new();
        let mut due = Instant::now() + EVERY;
        loop {
            tokio::select! {
                update = self.subscription.updates.recv() => {
                    let Some(update) = update else { return };
                    image = self.note(update, &mut parts);
                    if parts.len() < ROWS_MAX {
                        continue;
                    }
                }
                () = tokio::time::sleep_until(due) => {}
            }
            due = Instant::now() + EVERY;
            let wanted = self.store.is_some() || partitions(&image) >= PARTITIONS_MIN;
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
        let voters =
            self.raft.server_metrics().borrow_watched().committed_membership_config.clone();
        let last_log_id = types::log_id_at(image.position);
        let header = Header { last_log_id, voters: voters.as_ref().clone() };
        // The store must never be ahead of the log.
        self.log.flush().await.map_err(redb::Error::Io)?;
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
