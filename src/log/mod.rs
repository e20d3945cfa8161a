//! Partition logs on disk, through the `Fs` port. Pure but for drivers. Uses `base`, `config`, `record`.
