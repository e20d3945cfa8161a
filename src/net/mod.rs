//! Kafka sockets: listen, connection loop, peer client. Knows frames, no API meaning.
