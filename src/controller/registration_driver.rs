//! A controller tells the active controller where it listens and what it supports, and again
//! whenever the cluster knows another life of it (`ControllerRegistrationManager.java`). Uses
//! `base`, `metadata`, `pb`.

use std::time::Duration;

use bytes::Bytes;
use tokio::{task::JoinHandle, time::sleep};

use super::{
    client_driver::ControllerClient,
    command::{SubmitBody, SubmitCommand},
    lifecycle_driver::{endpoint_to_pb, feature_to_pb},
};
use crate::{
    base::{ErrorCode, NodeId, Uuid},
    metadata::{Endpoint, Image, VersionRange},
    pb::controller as pb,
    quorum::Subscription,
};

/// A registration is waited for so long.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before the next attempt.
const AGAIN: Duration = Duration::from_secs(1);

/// What a controller registers with.
#[derive(Debug, Clone)]
pub struct ControllerSettings {
    /// This node.
    pub node_id: NodeId,
    /// This life of the process.
    pub incarnation: Uuid,
    /// Where its controller listeners are reached.
    pub endpoints: Vec<Endpoint>,
    /// What it supports.
    pub features: Vec<(String, VersionRange)>,
}

/// A controller's registration. Ends when dropped.
#[derive(Debug)]
pub struct ControllerRegistration(JoinHandle<()>);

impl Drop for ControllerRegistration {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ControllerRegistration {
    /// Begins to register, and keeps the registration.
    #[must_use]
    pub fn start(settings: ControllerSettings, client: ControllerClient) -> Self {
        Self(tokio::spawn(keep(settings, client)))
    }
}

async fn keep(settings: ControllerSettings, client: ControllerClient) {
    let Subscription { mut image, mut updates } = client.source().subscribe();
    loop {
        let due =
            !is_registered(&settings, &image) && image.features().metadata_version().is_some();
        if due && let Err(why) = register(&settings, &client).await {
            tracing::info!("this controller is not registered yet: {why}");
        }
        // After a success the record is on its way here.
        let again = sleep(AGAIN);
        tokio::select! {
            update = updates.recv() => match update {
                Some(update) => image = update.image,
                None => return,
            },
            () = again, if due => {}
        }
        while let Ok(update) = updates.try_recv() {
            image = update.image;
        }
    }
}

fn is_registered(settings: &ControllerSettings, image: &Image) -> bool {
    let known = image.brokers().controller(settings.node_id);
    known.is_some_and(|c| c.incarnation == settings.incarnation)
}

async fn register(settings: &ControllerSettings, client: &ControllerClient) -> Result<(), String> {
    let command = SubmitCommand::RegisterController(pb::RegisterController {
        controller_id: settings.node_id.0,
        incarnation_id: Bytes::copy_from_slice(&settings.incarnation.0),
        endpoints: settings.endpoints.iter().map(endpoint_to_pb).collect(),
        features: settings.features.iter().map(feature_to_pb).collect(),
    });
    let reply = client.submit(command, TIMEOUT).await.map_err(|e| e.to_string())?;
    let (error, message) = match reply.reply {
        Some(SubmitBody::RegisterController(body)) if reply.error == 0 => {
            (body.error, body.error_message)
        }
        _ => (reply.error, reply.error_message),
    };
    if error == 0 {
        return Ok(());
    }
    let code = i16::try_from(error).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code);
    Err(format!("{code:?} {}", message.unwrap_or_default()))
}
