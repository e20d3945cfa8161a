//! The clean stop: leaders move, clients are let go, logs are closed, the marker is left.

use std::{future::Future, sync::Arc, time::Duration};

use crate::{
    base::ErrorCode,
    controller::BrokerState,
    node::{
        boot::{RunningNode, Signals},
        broker::RunningBroker,
    },
    replica::{table::ReplicaTable, upkeep_driver},
    server::Broker,
};

/// Once a controlled shutdown is forced, or was granted, leaders have so long to move.
const LEADERS_MOVE_MAX: Duration = Duration::from_secs(10);
/// Requests under way may take so long to finish.
const IN_FLIGHT_MAX: Duration = Duration::from_secs(5);

/// Within this time followers confirm what they confirm at all.
const COMMITTED_MAX: Duration = Duration::from_millis(200);

/// Requests to a controller may take so long: while a leader waits, nobody decides.
const CONTROLLER_CLIENTS_MAX: Duration = Duration::from_millis(500);

/// Stops everything, in the reverse order of the start: a broker hands over the partitions it leads
/// before a controller hands over the quorum. A further signal of `signals` ends the wait for other
/// replicas, and another one that for leaders to move.
pub(crate) async fn stop(node: RunningNode, signals: &mut Signals) {
    if let Some(broker) = node.broker {
        stop_broker(broker, signals).await;
    }
    if let Some(observer) = node.observer {
        observer.shutdown().await;
    }
    if let Some(controller) = node.controller {
        drop(controller.registration);
        // While this one leads and does not decide, nobody does.
        if controller.quorum.hand_over().await {
            for clients in controller.clients {
                clients.stop(CONTROLLER_CLIENTS_MAX).await;
            }
            controller.driver.shutdown().await;
        } else {
            controller.driver.abandon();
        }
        controller.quorum.shutdown().await;
        for listener in controller.listeners {
            listener.shutdown().await;
        }
    }
}

async fn stop_broker(running: RunningBroker, signals: &mut Signals) {
    let RunningBroker { broker, listeners, stop, following, cleaner, mut tasks, fatal: _ } =
        running;
    if broker.settings.cluster.controlled_shutdown {
        leave(&broker, signals).await;
    }
    let replicas = Arc::clone(&broker.replicas);
    tokio::select! {
        () = async {
            for listener in listeners {
                listener.stop(IN_FLIGHT_MAX).await;
            }
        } => {}
        () = turn_away(&replicas) => {}
    }
    broker.groups.stop();
    broker.transactions.stop();
    broker.share.stop();
    broker.share_states.stop();
    stop.send_replace(true);
    let epoch = broker.lifecycle.epoch();
    broker.lifecycle.close().await;
    if let Err(e) = following.await {
        tracing::error!("following the metadata failed: {e}");
    }
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    let closed = tokio::task::spawn_blocking(move || {
        cleaner.stop();
        upkeep_driver::close_clean(&replicas, epoch);
    })
    .await;
    if let Err(e) = closed {
        tracing::error!("the logs were not closed cleanly: {e}");
    }
}

/// Nobody moved the leaders of partitions that this broker leads still, and their followers may be
/// gone: producers that wait for them are sent elsewhere. Never ends.
async fn turn_away(replicas: &ReplicaTable) {
    loop {
        tokio::time::sleep(COMMITTED_MAX).await;
        for slot in replicas.all() {
            slot.lock().dismiss(ErrorCode::NotLeaderOrFollower);
        }
    }
}

/// Has the controller move what this broker leads.
async fn leave(broker: &Broker, signals: &mut Signals) {
    let cluster = &broker.settings.cluster;
    let state = broker.lifecycle.state();
    if !cluster.controlled_shutdown_force {
        broker.lifecycle.begin_controlled_shutdown();
        let wait = u64::try_from(cluster.controlled_shutdown_wait_ms).unwrap_or(0);
        let mut allowed = state.clone();
        let allowed = allowed.wait_for(|s| {
            matches!(s, BrokerState::PendingControlledShutdown | BrokerState::ShuttingDown)
        });
        if !within(Duration::from_millis(wait), signals, allowed).await {
            tracing::warn!("stopping although partitions fall below min.insync.replicas");
            broker.lifecycle.force_controlled_shutdown();
        }
    } else {
        broker.lifecycle.force_controlled_shutdown();
    }
    let mut gone = state;
    let gone = gone.wait_for(|s| *s == BrokerState::ShuttingDown);
    if !within(LEADERS_MOVE_MAX, signals, gone).await {
        tracing::warn!("the controller did not let this broker go in time; stopping anyway");
    }
}

/// Whether `done` comes before the time is up or another signal.
async fn within(time: Duration, signals: &mut Signals, done: impl Future) -> bool {
    tokio::select! {
        _ = done => true,
        () = tokio::time::sleep(time) => false,
        () = signals.again() => false,
    }
}
