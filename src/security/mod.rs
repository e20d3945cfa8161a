//! SASL and SCRAM machines, the authorizer over the image, TLS set-up. Uses `base`, `config`, `metadata`.
