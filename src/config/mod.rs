//! The key table, values, loading and layering of configuration. Uses `base`.
