//! openraft over `log` and tonic: propose, commit, checkpoint, observe.
