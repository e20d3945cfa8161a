//! The API table, handlers, refusals, forwarding.
