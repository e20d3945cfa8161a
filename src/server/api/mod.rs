//! The handlers, one file a family of APIs, mirroring `wire/api`, and the table of APIs.
