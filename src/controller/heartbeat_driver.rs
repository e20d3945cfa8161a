//! The heartbeats of a registered broker: one stream to the active controller, opened anew at once
//! when it breaks or another controller leads (`BrokerLifecycleManager.java`). Uses `base`, `pb`.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    client_driver::{self, Client, Search},
    lifecycle_driver::{BrokerState, Life, named, uuid_bytes},
};
use crate::{
    base::{ErrorCode, NodeId},
    pb::controller as pb,
    quorum::Leadership,
};

/// Pause before the heartbeat after the one that said the broker has caught up.
const CAUGHT_UP_PAUSE: Duration = Duration::from_millis(10);
/// Pause between heartbeats while a controlled shutdown is under way.
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(50);
/// Pause before a controlled shutdown that was refused is asked for again.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// A broker that wishes to stop does so without a controller that is silent for so long.
const SILENCE_MAX: Duration = Duration::from_secs(4);
/// It does not wait for that if the quorum's processes have been gone for this time: one of them may
/// be back soon.
const GONE_AFTER: Duration = Duration::from_millis(500);
/// A day that never comes, for calls that are bounded by something else.
const FAR: Duration = Duration::from_secs(86_400);

/// Why heartbeats, or one stream of them, ended.
pub(super) enum Ended {
    /// The broker may stop.
    Granted,
    /// The controller does not know this registration.
    Stale,
    /// Another controller leads, if it is known which.
    Moved(Option<i32>),
    /// The controller does not answer.
    Silent(String),
    /// The node has gone.
    Nobody,
}

/// The stream in use.
struct Stream {
    controller: NodeId,
    beats: mpsc::Sender<pb::HeartbeatRequest>,
    replies: client_driver::Replies<pb::HeartbeatReply>,
    leadership: watch::Receiver<Leadership>,
}

impl Life {
    /// Heartbeats until the controller lets the broker go, or does not know it.
    pub(super) async fn beat(&mut self) -> Ended {
        let mut search = Search::default();
        loop {
            let patience = if self.wished.borrow().shut_down { GONE_AFTER } else { FAR };
            let far = Instant::now() + patience;
            let ended = match self.client.next_client(&mut search, far).await {
                Some((controller, client)) => self.one_stream(controller, client).await,
                None => Ended::Silent("no controller is known".to_owned()),
            };
            match ended {
                Ended::Moved(leader) => search.moved(leader),
                Ended::Silent(why) => {
                    search.silent();
                    if self.said != why {
                        tracing::warn!("no heartbeat reaches the controller: {why}");
                    }
                    self.said = why;
                }
                Ended::Granted | Ended::Stale | Ended::Nobody => return ended,
            }
            let since = *self.silent_since.get_or_insert_with(Instant::now);
            if !self.wished.borrow().shut_down {
                self.silent_since = None;
            } else if since.elapsed() >= SILENCE_MAX {
                tracing::warn!("no controller answers: stopping without one");
                return Ended::Granted;
            } else if since.elapsed() >= GONE_AFTER && self.client.quorum_is_gone().await {
                tracing::warn!(
                    "a majority of the controllers is gone, and nobody can move leaders: stopping \
                     without them"
                );
                return Ended::Granted;
            }
            self.client.pause(Instant::now() + self.settings.heartbeat_interval).await;
        }
    }

    async fn one_stream(&mut self, controller: NodeId, mut client: Client) -> Ended {
        let patience = self.settings.heartbeat_interval;
        let mut leadership = self.client.source().leadership();
        leadership.mark_unchanged();
        let (beats, outgoing) = mpsc::channel(1);
        // There is room: the channel is new.
        let _ = beats.try_send(self.heartbeat());
        let opening = client.heartbeat(ReceiverStream::new(outgoing));
        let replies = match tokio::time::timeout(patience, opening).await {
            Ok(Ok(opened)) => opened.into_inner(),
            Ok(Err(status)) => return Ended::Silent(status.to_string()),
            Err(_) => return silent(),
        };
        let mut stream = Stream { controller, beats, replies, leadership };
        loop {
            let reply = match tokio::time::timeout(patience, stream.next()).await {
                Ok(Ok(reply)) => reply,
                Ok(Err(ended)) => return ended,
                Err(_) => return silent(),
            };
            let pause = match self.take_in(&reply) {
                Ok(pause) => pause,
                Err(ended) => return ended,
            };
            if let Err(ended) = self.until_next(pause, &mut stream).await {
                return ended;
            }
            if stream.beats.send(self.heartbeat()).await.is_err() {
                return Ended::Silent("the stream broke".to_owned());
            }
        }
    }

    fn heartbeat(&self) -> pb::HeartbeatRequest {
        let wishes = self.wished.borrow();
        let cordoned = wishes.cordoned_dirs.as_ref().filter(|_| self.caught_up);
        pb::HeartbeatRequest {
            broker_id: self.settings.node_id.0,
            broker_epoch: *self.epoch.borrow(),
            metadata_offset: *self.published.borrow(),
            want_fence: !wishes.ready,
            want_shut_down: wishes.shut_down,
            offline_log_dirs: uuid_bytes(&wishes.offline_dirs),
            cordoned_log_dirs: cordoned.map(|ids| pb::DirList { ids: uuid_bytes(ids) }),
            force_shut_down: wishes.force,
        }
    }

    /// Moves on by an answer; the pause before the next heartbeat.
    fn take_in(&mut self, reply: &pb::HeartbeatReply) -> Result<Duration, Ended> {
        let interval = self.settings.heartbeat_interval;
        match named(reply.error) {
            ErrorCode::None => {}
            ErrorCode::NotController => return Err(Ended::Moved(reply.leader)),
            ErrorCode::StaleBrokerEpoch => return Err(Ended::Stale),
            error => {
                tracing::warn!(?error, "the controller refused a heartbeat");
                return Ok(interval);
            }
        }
        self.silent_since = None;
        self.answered.send_replace(Some(Instant::now()));
        self.dirs_are_told();
        let (shut_down, forced) = {
            let wishes = self.wished.borrow();
            (wishes.shut_down, wishes.force)
        };
        if shut_down {
            return self.take_in_shutdown(reply, forced);
        }
        self.say_fencing(reply.is_fenced);
        let recovers = *self.state.borrow() == BrokerState::Recovery;
        if recovers && !reply.is_fenced {
            tracing::info!("this broker is unfenced");
            self.state.send_replace(BrokerState::Running);
        }
        if reply.is_caught_up && !std::mem::replace(&mut self.caught_up, true) {
            return Ok(CAUGHT_UP_PAUSE.min(interval));
        }
        Ok(interval)
    }

    fn take_in_shutdown(
        &mut self,
        reply: &pb::HeartbeatReply,
        forced: bool,
    ) -> Result<Duration, Ended> {
        let interval = self.settings.heartbeat_interval;
        if reply.should_shut_down {
            return Err(Ended::Granted);
        }
        let Some(why) = reply.shutdown_refused.as_ref().filter(|_| !forced) else {
            self.state.send_replace(BrokerState::PendingControlledShutdown);
            return Ok(SHUTDOWN_PAUSE.min(interval));
        };
        if self.said != *why {
            tracing::warn!("the controller does not let this broker stop yet: {why}");
            self.said.clone_from(why);
        }
        Ok(REFUSED_PAUSE.min(interval))
    }

    /// The heartbeat that was just answered told of these directories: one that failed since is
    /// told of at once, as the wish has changed.
    fn dirs_are_told(&mut self) {
        let changed = self.wished.has_changed().unwrap_or(false);
        let dirs = self.wished.borrow().offline_dirs.clone();
        if !changed {
            self.told_dirs.send_if_modified(|told| {
                let news = *told != dirs;
                *told = dirs;
                news
            });
        }
    }

    fn say_fencing(&mut self, is_fenced: bool) {
        let ran = *self.state.borrow() == BrokerState::Running;
        if ran && is_fenced != self.fenced {
            self.fenced = is_fenced;
            match is_fenced {
                true => tracing::warn!("the controller has fenced this broker: it leads nothing"),
                false => tracing::info!("this broker is unfenced again"),
            }
        }
    }

    /// Waits for the next heartbeat's time, which comes early when there is news for the
    /// controller.
    async fn until_next(&mut self, pause: Duration, stream: &mut Stream) -> Result<(), Ended> {
        let registered = *self.epoch.borrow();
        let behind = *self.published.borrow() < registered;
        let caught_up = async {
            if !behind || self.published.wait_for(|at| *at >= registered).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = caught_up => Ok(()),
            changed = self.wished.changed() => changed.map_err(|_| Ended::Nobody),
            answer = stream.next() => match answer {
                Ok(_) => Err(Ended::Silent("an answer to no heartbeat".to_owned())),
                Err(ended) => Err(ended),
            }
        }
    }
}

impl Stream {
    /// The next answer, unless the stream breaks or another controller is heard to lead.
    async fn next(&mut self) -> Result<pb::HeartbeatReply, Ended> {
        let asked = self.controller;
        tokio::select! {
            biased;
            answer = self.replies.message() => match answer {
                Ok(Some(reply)) => Ok(reply),
                Ok(None) => Err(Ended::Silent("the controller ended the stream".to_owned())),
                Err(status) => Err(Ended::Silent(status.to_string())),
            },
            leader = client_driver::moved_from(asked, &mut self.leadership) => {
                Err(Ended::Moved(Some(leader.0)))
            }
        }
    }
}

fn silent() -> Ended {
    Ended::Silent("the controller is silent".to_owned())
}
