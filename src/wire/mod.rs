//! Framing, primitives and the message schemas of every API. Pure. Uses `base`.
