//! The gRPC service of the controller listener: commands and broker heartbeats, put to this node's
//! controller; a heartbeat stream that ends is looked after (`lines_driver`). Uses `base`, `pb`,
//! `quorum`.

use std::pin::Pin;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::{driver::ControllerHandle, lines_driver};
use crate::{
    base::{ErrorCode, NodeId},
    pb::controller::{self as pb, controller_server},
};

/// Largest command or answer, in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Adds the controller's service to the routes of the controller listener.
#[must_use]
pub fn add_to(routes: Routes, controller: ControllerHandle) -> Routes {
    let service = controller_server::ControllerServer::new(ControllerService { controller })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    routes.add_service(service)
}

struct ControllerService {
    controller: ControllerHandle,
}

type Replies = Pin<Box<dyn Stream<Item = Result<pb::HeartbeatReply, Status>> + Send>>;

#[tonic::async_trait]
impl controller_server::Controller for ControllerService {
    async fn submit(
        &self,
        request: Request<pb::SubmitRequest>,
    ) -> Result<Response<pb::SubmitReply>, Status> {
        self.controller.doorman().check_cluster(request.metadata())?;
        let command = request.into_inner().command;
        let command = command.ok_or_else(|| Status::unimplemented("the command is not known"))?;
        Ok(Response::new(self.controller.submit(command).await))
    }

    type HeartbeatStream = Replies;

    async fn heartbeat(
        &self,
        request: Request<Streaming<pb::HeartbeatRequest>>,
    ) -> Result<Response<Replies>, Status> {
        self.controller.doorman().check_cluster(request.metadata())?;
        let line = Line {
            controller: self.controller.clone(),
            heartbeats: request.into_inner(),
            number: self.controller.lines().number(),
            sender: None,
        };
        let replies = futures::stream::unfold(Some(line), |line| async move {
            let mut line = line?;
            let reply = line.next().await?;
            Some((Ok(reply), Some(line)))
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

/// One stream of heartbeats.
struct Line {
    controller: ControllerHandle,
    heartbeats: Streaming<pb::HeartbeatRequest>,
    number: u64,
    /// Who was heard last, in which epoch, and whether it was let go.
    sender: Option<(NodeId, i64, bool)>,
}

impl Line {
    async fn next(&mut self) -> Option<pb::HeartbeatReply> {
        let request = self.heartbeats.message().await.ok().flatten()?;
        let (broker, epoch) = (NodeId(request.broker_id), request.broker_epoch);
        let reply = self.controller.heartbeat(request).await;
        if reply.error == i32::from(ErrorCode::None.code()) {
            self.controller.lines().heard(broker, epoch, self.number);
            self.sender = Some((broker, epoch, reply.should_shut_down));
        }
        Some(reply)
    }
}

/// However the stream ends: the transport drops one whose connection is lost without another word.
impl Drop for Line {
    fn drop(&mut self) {
        let Some((broker, epoch, let_go)) = self.sender.take() else { return };
        let lost = self.controller.lines().ended(broker, self.number) && !let_go;
        if lost && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // It ends with the session at the latest, and holds nothing that a shutdown waits for.
            runtime.spawn(lines_driver::lost(self.controller.clone(), broker, epoch));
        }
    }
}
