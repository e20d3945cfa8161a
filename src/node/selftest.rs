//! The first listener self-test: each advertised address is dialled back once at boot. A failure is
//! said in one clear line and is never fatal: the most common cause of "it does not connect".

use std::{sync::Arc, time::Duration};

use tokio::net::TcpStream;

use crate::server::Broker;

const TIMEOUT: Duration = Duration::from_secs(5);

/// Dials every address that this broker registered with.
pub(crate) async fn dial_back(broker: Arc<Broker>) {
    let image = broker.image();
    let Some(own) = image.brokers().get(broker.node_id) else { return };
    for at in &own.endpoints {
        let (name, host, port) = (&at.name, &at.host, at.port);
        let dialled = TcpStream::connect((&**host, port));
        let why = match tokio::time::timeout(TIMEOUT, dialled).await {
            Ok(Ok(_)) => continue,
            Ok(Err(e)) => e.to_string(),
            Err(_) => "no answer within 5 s".to_owned(),
        };
        tracing::warn!(
            "advertised.listeners: clients are told {name}://{host}:{port}, but this node cannot \
             reach itself there: {why}. Clients will fail to connect unless they see the network \
             differently; set advertised.listeners to an address that they can reach"
        );
    }
}
