//! Leader and follower of each partition, waiters, fetch sessions.
