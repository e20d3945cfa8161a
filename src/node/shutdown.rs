//! The clean stop: leaders move, clients are let go, logs are closed, the marker is left.

use std::{sync::Arc, time::Duration};

use crate::{
    controller::BrokerState,
    node::{
        boot::{RunningNode, World},
        broker::RunningBroker,
    },
    replica::upkeep_driver,
};

/// A controller that does not let a broker go is waited for so long at most.
const CONTROLLED_SHUTDOWN_MAX: Duration = Duration::from_secs(30);
/// Requests under way may take so long to finish.
const IN_FLIGHT_MAX: Duration = Duration::from_secs(5);

/// Stops everything, in the reverse order of the start.
pub(crate) async fn stop(node: RunningNode, _world: &World) {
    if let Some(broker) = node.broker {
        stop_broker(broker).await;
    }
    if let Some(observer) = node.observer {
        observer.shutdown().await;
    }
    if let Some(controller) = node.controller {
        controller.driver.shutdown().await;
        controller.quorum.shutdown().await;
        for listener in controller.listeners {
            listener.shutdown().await;
        }
    }
}

async fn stop_broker(running: RunningBroker) {
    let RunningBroker { broker, listeners, stop, following, mut tasks } = running;
    if broker.settings.cluster.controlled_shutdown {
        broker.lifecycle.begin_controlled_shutdown();
        let mut state = broker.lifecycle.state();
        let gone = state.wait_for(|s| *s == BrokerState::ShuttingDown);
        if tokio::time::timeout(CONTROLLED_SHUTDOWN_MAX, gone).await.is_err() {
            tracing::warn!("the controller did not let this broker go in time; stopping anyway");
        }
    }
    for listener in listeners {
        listener.stop(IN_FLIGHT_MAX).await;
    }
    broker.groups.stop();
    stop.send_replace(true);
    let epoch = broker.lifecycle.epoch();
    broker.lifecycle.close().await;
    if let Err(e) = following.await {
        tracing::error!("following the metadata failed: {e}");
    }
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    let replicas = Arc::clone(&broker.replicas);
    let closed =
        tokio::task::spawn_blocking(move || upkeep_driver::close_clean(&replicas, epoch)).await;
    if let Err(e) = closed {
        tracing::error!("the logs were not closed cleanly: {e}");
    }
}
