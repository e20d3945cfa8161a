//! The loader: folds what the quorum commits into images and deltas, batch by batch or from a
//! checkpoint. Whoever reads the log owns one.

use std::sync::Arc;

use super::{
    delta::{Delta, ReplayError},
    image::{Image, Position},
    record::Record,
};

/// What publishers get: the new image and how it differs from the one before.
#[derive(Debug, Clone)]
pub struct Update {
    /// The image after.
    pub image: Arc<Image>,
    /// From the image before to this one.
    pub delta: Arc<Delta>,
    /// Whether it came from a checkpoint rather than from the log.
    pub from_checkpoint: bool,
}

/// Why records could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The batch does not follow the image; nothing has changed.
    #[error("a batch at offset {got} after an image at offset {at}")]
    OutOfOrder {
        /// The batch's offset.
        got: i64,
        /// The image's offset.
        at: i64,
    },
    /// A record does not fit the image; nothing has changed. This node cannot go on from here.
    #[error("metadata record {kind} at offset {offset}: {cause}")]
    Replay {
        /// The record's kind.
        kind: &'static str,
        /// Its offset.
        offset: i64,
        /// What does not fit.
        #[source]
        cause: ReplayError,
    },
}

/// Holds the newest image.
#[derive(Debug, Clone, Default)]
pub struct Loader {
    image: Arc<Image>,
}

impl Loader {
    /// Starts from `image`.
    #[must_use]
    pub const fn new(image: Arc<Image>) -> Self {
        Self { image }
    }

    /// The newest image.
    #[must_use]
    pub const fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// Folds one committed entry. An entry that the image already holds is skipped (`None`).
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load_batch(
        &mut self,
        at: Position,
        records: &[Record],
    ) -> Result<Option<Update>, LoadError> {
        self.load_batches([(at, records)])
    }

    /// Folds several committed entries into one update. Entries that the image already holds are
    /// skipped; `None` if that was all.
    ///
    /// # Errors
    /// See [`LoadError`]; nothing has changed.
    pub fn load_batches<'a>(
        &mut self,
        batches: impl IntoIterator<Item = (Position, &'a [Record])>,
    ) -> Result<Option<Update>, LoadError> {
        let mut delta = Delta::new(&self.image);
        for (at, records) in batches {
            let now = delta.image().position;
            if at.offset <= now.offset {
                continue;
            }
            if at.epoch < now.epoch {
                return Err(LoadError::OutOfOrder { got: at.offset, at: now.offset });
            }
            replay_all(&mut delta, records, at.offset)?;
            delta.advance(at);
        }
        if delta.image().position == self.image.position {
            return Ok(None);
        }
        Ok(Some(self.publish(delta, false)))
    }

    /// Replaces the image by a checkpoint's. The update's delta is the difference.
    ///
    /// # Errors
    /// See [`LoadError`]; nothing has changed.
    pub fn load_checkpoint(
        &mut self,
        at: Position,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Update, LoadError> {
        let image = image_of(at, records)?;
        let delta = Delta::between(&self.image, &image);
        Ok(self.publish(delta, true))
    }

    fn publish(&mut self, delta: Delta, from_checkpoint: bool) -> Update {
        self.image = Arc::new(delta.apply());
        Update { image: Arc::clone(&self.image), delta: Arc::new(delta), from_checkpoint }
    }
}

/// The image that a checkpoint's records make.
///
/// # Errors
/// [`LoadError::Replay`]: the checkpoint is damaged or from a newer version.
pub fn image_of(
    at: Position,
    records: impl IntoIterator<Item = Record>,
) -> Result<Image, LoadError> {
    let mut delta = Delta::new(&Image::default());
    for record in records {
        replay_all(&mut delta, std::slice::from_ref(&record), at.offset)?;
    }
    delta.advance(at);
    Ok(delta.apply())
}

fn replay_all(delta: &mut Delta, records: &[Record], offset: i64) -> Result<(), LoadError> {
    for record in records {
        delta.replay(record, offset).map_err(|cause| LoadError::Replay {
            kind: record.kind(),
            offset,
            cause,
        })?;
    }
    Ok(())
}
