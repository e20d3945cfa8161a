//! The message schemas, one file a family of APIs.
