//! The gRPC service of the controller listener: commands and broker heartbeats, put to this node's
//! controller. A heartbeat stream that ends is a failure signal: the broker's address is dialled
//! once, and a refused connection says that its process is gone. Uses `base`, `pb`, `quorum`.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use tokio::net::TcpStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::driver::ControllerHandle;
use crate::{
    base::{ErrorCode, NodeId},
    pb::controller::{self as pb, controller_server},
};

/// Largest command or answer, in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A broker whose stream broke is dialled for so long.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

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
            watch: Watch::default(),
        };
        let replies = futures::stream::unfold(Some(line), |line| async move {
            let mut line = line?;
            let reply = line.next().await?;
            Some((Ok(reply), Some(line)))
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

/// The heartbeats of one broker.
struct Line {
    controller: ControllerHandle,
    heartbeats: Streaming<pb::HeartbeatRequest>,
    watch: Watch,
}

/// Looks after the broker when its stream goes out of use, however that happens: the transport
/// drops a stream whose connection is lost without another word.
#[derive(Default)]
struct Watch(Option<(ControllerHandle, NodeId, i64)>);

impl Line {
    async fn next(&mut self) -> Option<pb::HeartbeatReply> {
        // However it ends, the dial tells a broker that only reconnects from one that is gone.
        let request = self.heartbeats.message().await.ok().flatten()?;
        let (broker, epoch) = (NodeId(request.broker_id), request.broker_epoch);
        let reply = self.controller.heartbeat(request).await;
        let watched = reply.error == i32::from(ErrorCode::None.code()) && !reply.should_shut_down;
        self.watch.0 = watched.then(|| (self.controller.clone(), broker, epoch));
        Some(reply)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some((controller, broker, epoch)) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            // Bounded by the dial's timeout; it holds nothing that a shutdown waits for.
            runtime.spawn(look_after(controller, broker, epoch));
        }
    }
}

async fn look_after(controller: ControllerHandle, broker: NodeId, epoch: i64) {
    let image = controller.image();
    let Some(registration) = image.brokers().get(broker) else { return };
    let Some(endpoint) = registration.endpoints.first() else { return };
    if registration.epoch != epoch {
        return;
    }
    let host = Arc::clone(&endpoint.host);
    let dial = TcpStream::connect((&*host, endpoint.port));
    if let Ok(Err(e)) = tokio::time::timeout(DIAL_TIMEOUT, dial).await
        && e.kind() == io::ErrorKind::ConnectionRefused
    {
        tracing::info!(broker = broker.0, epoch, "broke its heartbeats and refuses connections");
        controller.broker_gone(broker, epoch).await;
    }
}
