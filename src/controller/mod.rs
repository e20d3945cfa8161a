//! Cluster decisions: commands in, records and replies out.
