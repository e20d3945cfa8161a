//! Boot, publish order, shutdown.
