//! Seeded and crashable doubles of the ports.
