//! Boot, publish order, shutdown.

use crate::config::ServerConfig;

/// Runs the node until it is told to stop.
///
/// # Errors
/// What stopped the start or the run.
pub fn run(config: ServerConfig, warnings: Vec<String>) -> anyhow::Result<()> {
    let _ = warnings;
    anyhow::bail!("node {} cannot run: this build has no node", config.node_id)
}
