//! The leader epochs of a log that is loaded: from their file, and from the batches where the file
//! does not tell.

use super::{
    checkpoint::CHECKPOINT_BYTES_MAX,
    epochs::Epochs,
    error::LogError,
    log::{Home, Log},
    names,
    scan::HEADERS_WINDOW,
};
use crate::base::Offset;

impl Log {
    /// Reads the epoch file. Tells whether it is damaged.
    pub(super) fn read_epochs(&mut self) -> Result<bool, LogError> {
        let path = self.folder().join(names::EPOCHS);
        let text = self.dir.read_text(&path, CHECKPOINT_BYTES_MAX)?.unwrap_or_default();
        let parsed = Epochs::parse(&text);
        if let Err(e) = &parsed {
            tracing::warn!(path = %path.display(), error = %e, "epochs are damaged, made anew");
        }
        let damaged = parsed.is_err();
        self.epochs = parsed.unwrap_or_default();
        Ok(damaged)
    }

    /// Reads the epochs below an offset from the batches; those behind it are kept.
    pub(super) fn rebuild_epochs(&mut self, below: Offset) -> Result<(), LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let known = self.epochs.take();
        for segment in self.segments.iter_mut().take_while(|s| s.base < below) {
            let mut walk = segment.scan(home, 0, HEADERS_WINDOW)?;
            while let Some((_, h)) = segment.step(home, &mut walk)? {
                if h.base_offset >= below {
                    break;
                }
                if self.epochs.latest().is_none_or(|known| h.partition_leader_epoch > known) {
                    self.epochs.assign(h.partition_leader_epoch, h.base_offset);
                }
            }
        }
        for later in known.iter().filter(|e| e.start >= below) {
            self.epochs.assign(later.epoch, later.start);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{
        base::ports::{Fs, OpenMode},
        log::{
            Recovery,
            fixture::{append, at, dir, new_log, open, sim, small},
            names,
        },
        testing::batches::Batch,
    };

    #[test]
    fn a_forgotten_log_start_brings_back_the_epochs_behind_it() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        for (n, epoch) in [1, 1, 4, 4, 6, 6].into_iter().enumerate() {
            let at = i64::try_from(n).unwrap();
            append(&mut log, &Batch::of(1, 40, at).at(at, epoch), at).unwrap();
        }
        log.close_clean(at(0)).unwrap();
        // What is left of the file once the log started at 3, which itself got lost.
        let damaged = fs.killed();
        let file =
            damaged.open(&Path::new("/data/t-0").join(names::EPOCHS), OpenMode::Truncate).unwrap();
        file.write_all_at(&[b"0\n2\n4 3\n6 4\n"], 0).unwrap();
        let mut log =
            open(&dir(&damaged), &small(), Recovery::Unclean { recovery_point: 0 }).unwrap();
        assert_eq!(log.log_start_offset(), 0);
        let mut ends = |epoch| log.end_offset_for(epoch, at(0)).unwrap().map(|e| (e.epoch, e.end));
        assert_eq!((ends(1), ends(4), ends(6)), (Some((1, 2)), Some((4, 4)), Some((6, 6))));
    }
}
