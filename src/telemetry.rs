//! Log set-up and the metric table. Owns the `tracing` subscriber; nothing else installs one.
