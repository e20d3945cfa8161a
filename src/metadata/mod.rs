//! Metadata records, image, delta and loader: the truth all nodes share. Pure. Uses `base`, `config`, `pb`.
