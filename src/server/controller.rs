//! What requests on a controller's own listener are answered with (`--bootstrap-controller`): this
//! node's controller, its image and the quorum. Nothing is forwarded: a controller that is not the
//! active one says so, and clients turn to the one that is (`ControllerApis`).

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::{
    base::{ErrorCode, NodeId},
    config::ServerConfig,
    controller::ControllerHandle,
    metadata::Image,
    pb::controller::{submit_reply::Reply, submit_request::Command},
    server::{
        context::{Admin, NodeAddress, Role},
        forward::{Failure, limit, settled},
    },
};

/// The parts of a controller that requests need. One for all connections.
#[derive(Debug)]
pub struct Controller {
    /// This node.
    pub node_id: NodeId,
    /// The cluster's id.
    pub cluster_id: Arc<str>,
    /// The static configuration.
    pub settings: Arc<ServerConfig>,
    /// This node's controller, active or not.
    pub handle: ControllerHandle,
}

impl Admin for Controller {
    fn role(&self) -> Role {
        Role::Controller
    }

    fn node_id(&self) -> NodeId {
        self.node_id
    }

    fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    fn settings(&self) -> &ServerConfig {
        &self.settings
    }

    fn image(&self) -> Arc<Image> {
        self.handle.image()
    }

    /// Those that registered with this listener; before they did, the voters.
    fn nodes(&self, listener: &str) -> Vec<NodeAddress> {
        let image = self.handle.image();
        let address = |id: NodeId, host: &str, port: u16| NodeAddress {
            id,
            host: host.to_owned(),
            port: i32::from(port),
            rack: None,
            fenced: false,
        };
        let registered = image.brokers().controllers().filter_map(|c| {
            let at = c.endpoints.iter().find(|e| *e.name == *listener)?;
            Some(address(c.id, &at.host, at.port))
        });
        let mut nodes: Vec<NodeAddress> = registered.collect();
        for voter in self.handle.voters() {
            if nodes.iter().all(|n| n.id != voter.id) {
                nodes.push(address(voter.id, &voter.host, voter.port));
            }
        }
        nodes.sort_by_key(|n| n.id);
        nodes
    }

    /// The active controller, if this one knows it.
    fn controller_for_clients(&self) -> i32 {
        self.handle.leadership().leader.map_or(-1, |id| id.0)
    }

    fn quorum_epoch(&self) -> i32 {
        self.handle.leadership().epoch
    }

    fn submit(&self, command: Command, timeout_ms: i32) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(async move {
            let done = tokio::time::timeout(limit(timeout_ms), self.handle.submit(command)).await;
            let reply = done.map_err(|_| {
                Failure::new(ErrorCode::RequestTimedOut, "The controller did not answer in time.")
            })?;
            let leader = reply.leader;
            let (_, body) = settled(reply).map_err(|failure| match (failure.code, leader) {
                (ErrorCode::NotController, Some(id)) => Failure::new(
                    ErrorCode::NotController,
                    format!("The active controller appears to be node {id}."),
                ),
                (ErrorCode::NotController, None) => {
                    Failure::new(ErrorCode::NotController, "No controller appears to be active.")
                }
                _ => failure,
            })?;
            Ok(body)
        })
    }
}
