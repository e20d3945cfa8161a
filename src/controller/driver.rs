//! Runs the controller's core: while this node leads the quorum, takes queued commands in rounds,
//! each round into one draft, proposes it, and answers once it is part of the image. One proposal
//! is in flight at a time. Uses `base`, `metadata`, `quorum`.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use super::{
    command::{Command, Outcome, Refusal, Reply, SubmitCommand},
    core::Core,
    draft::Draft,
    lines_driver::{self, Lines},
    pulse_driver::Pulse,
    quorum_driver,
};
use crate::{
    base::{ErrorCode, LeaderEpoch, Mono, NodeId, ports::Clock},
    metadata::{Image, Update},
    pb::controller as pb,
    quorum::{Doorman, Leadership, MetadataSource as _, ProposeError, Quorum, Subscription, Voter},
};

/// Commands that may wait for the next round.
const QUEUED_MAX: usize = 4096;
/// A round takes no more commands once its records have so many bytes.
const ROUND_BYTES: usize = 1024 * 1024;
/// Nor once it has so many commands.
const ROUND_COMMANDS: usize = 1024;
/// A member that leads but refused a proposal is asked again after this pause.
const REACTIVATE_AFTER: Duration = Duration::from_millis(100);
/// Without a deadline of the core's own the driver looks up this often.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// A command on its way to the core.
#[derive(Debug)]
struct Ask {
    command: Command,
    answer: oneshot::Sender<Reply>,
}

/// Puts questions to this node's controller. Clones share it.
#[derive(Debug, Clone)]
pub struct ControllerHandle {
    asks: mpsc::Sender<Ask>,
    /// What concerns the life of brokers goes by its own way, past all that is queued.
    signs: mpsc::Sender<Ask>,
    quorum: Arc<Quorum>,
    lines: Arc<Lines>,
}

pub(super) fn refused(leader: Option<NodeId>) -> pb::SubmitReply {
    let refusal = Refusal::bare(ErrorCode::NotController);
    match Outcome::refused(&refusal).lost(leader) {
        Reply::Submit(reply) => reply,
        Reply::Heartbeat(_) | Reply::Nothing => pb::SubmitReply::default(),
    }
}

impl ControllerHandle {
    /// Waits for a command's answer. If this node does not lead, or stops leading before the answer
    /// is known, that is NOT_CONTROLLER with the leader's id.
    pub async fn submit(&self, command: SubmitCommand) -> pb::SubmitReply {
        let command = match quorum_driver::answer(&self.quorum, command).await {
            Ok(reply) => return reply,
            Err(command) => command,
        };
        match put(&self.asks, Command::Submit(command)).await {
            Some(Reply::Submit(reply)) => reply,
            _ => refused(self.leadership().leader),
        }
    }

    /// Waits for the answer to a heartbeat; otherwise as [`ControllerHandle::submit`].
    pub async fn heartbeat(&self, request: pb::HeartbeatRequest) -> pb::HeartbeatReply {
        match put(&self.signs, Command::Heartbeat(request)).await {
            Some(Reply::Heartbeat(reply)) => reply,
            _ => pb::HeartbeatReply {
                error: i32::from(ErrorCode::NotController.code()),
                leader: self.leadership().leader.map(|id| id.0),
                ..pb::HeartbeatReply::default()
            },
        }
    }

    /// A broker's process is known to be gone.
    pub async fn broker_gone(&self, broker: NodeId, epoch: i64) {
        put(&self.signs, Command::BrokerGone { broker, epoch }).await;
    }

    /// A broker's heartbeat stream broke.
    pub(super) async fn disconnected(&self, broker: NodeId, epoch: i64) {
        put(&self.signs, Command::Disconnected { broker, epoch }).await;
    }

    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    pub(super) fn is_active(&self) -> bool {
        self.quorum.leadership().borrow().is_self
    }

    /// Who leads the quorum, as far as this node knows.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        *self.quorum.leadership().borrow()
    }

    /// Where the voters listen.
    #[must_use]
    pub fn voters(&self) -> Vec<Voter> {
        self.quorum.voters().to_vec()
    }

    /// The latest image.
    #[must_use]
    pub fn image(&self) -> Arc<Image> {
        self.quorum.image()
    }

    /// Who checks the callers of this node's controller listener.
    pub(super) fn doorman(&self) -> &Doorman {
        self.quorum.doorman()
    }
}

async fn put(queue: &mpsc::Sender<Ask>, command: Command) -> Option<Reply> {
    let (answer, reply) = oneshot::channel();
    queue.send(Ask { command, answer }).await.ok()?;
    reply.await.ok()
}

/// The running driver.
#[derive(Debug)]
pub struct ControllerDriver {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    failed: watch::Receiver<Option<String>>,
}

impl ControllerDriver {
    /// Runs `core` over `quorum`.
    #[must_use]
    pub fn start(
        core: Core,
        quorum: Arc<Quorum>,
        clock: Arc<dyn Clock>,
    ) -> (Self, ControllerHandle) {
        let (asks, asked) = mpsc::channel(QUEUED_MAX);
        let (signs, signed) = mpsc::channel(QUEUED_MAX);
        let (stop, stopping) = watch::channel(false);
        let (failure, failed) = watch::channel(None);
        let Subscription { image, updates } = quorum.subscribe();
        let lines = Arc::default();
        let handle = ControllerHandle { asks, signs, quorum: Arc::clone(&quorum), lines };
        let leadership = quorum.leadership();
        let run = Run {
            core,
            pulse: Pulse::start(&clock),
            handle: handle.clone(),
            quorum,
            clock,
            image,
            updates,
            leadership,
            asked,
            signed,
            failure,
        };
        let task = tokio::spawn(run.until(stopping));
        (Self { stop, task, failed }, handle)
    }

    /// Becomes `Some` when the quorum member under the controller has failed for good: the node
    /// cannot be a controller any longer.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    /// Stops at once: a proposal in flight cannot be committed any more.
    pub fn abandon(self) {
        self.task.abort();
    }

    /// Stops after the proposal in flight, if any, or at once if that does not end soon.
    pub async fn shutdown(mut self) {
        // The task may have ended already.
        let _ = self.stop.send(true);
        let grace = Duration::from_secs(1);
        if tokio::time::timeout(grace, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// What a wait ended with.
enum Woken {
    Stop,
    /// The quorum member is no more.
    Ended,
    Leadership,
    Update(Update),
    Ask(Ask),
    Deadline,
}

struct Run {
    core: Core,
    pulse: Pulse,
    handle: ControllerHandle,
    quorum: Arc<Quorum>,
    clock: Arc<dyn Clock>,
    image: Arc<Image>,
    updates: mpsc::UnboundedReceiver<Update>,
    leadership: watch::Receiver<Leadership>,
    asked: mpsc::Receiver<Ask>,
    signed: mpsc::Receiver<Ask>,
    failure: watch::Sender<Option<String>>,
}

/// Answers that wait for the round's commit.
type Waiting = Vec<(Outcome, oneshot::Sender<Reply>)>;

impl Run {
    async fn until(mut self, mut stopping: watch::Receiver<bool>) {
        self.leadership.mark_changed();
        loop {
            let mut asks = Vec::new();
            match self.wait(&mut stopping).await {
                Woken::Stop => return,
                Woken::Ended => {
                    let why = "the metadata quorum member has ended".to_owned();
                    self.failure.send_replace(Some(why));
                    return;
                }
                Woken::Leadership => self.on_leadership().await,
                Woken::Update(update) => self.take_in(&update),
                Woken::Ask(ask) => asks.push(ask),
                Woken::Deadline => {}
            }
            self.take_in_all();
            if self.core.active_epoch().is_some() {
                self.round(asks).await;
            } else {
                self.turn_away(asks);
            }
            if self.failure.borrow().is_some() {
                return;
            }
        }
    }

    async fn wait(&mut self, stopping: &mut watch::Receiver<bool>) -> Woken {
        let now = self.clock.now().mono;
        let deadline = match self.core.next_deadline() {
            Mono::NEVER => LONGEST_WAIT,
            at => at.since(now).min(LONGEST_WAIT),
        };
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => Woken::Stop,
            changed = self.leadership.changed() => match changed {
                Ok(()) => Woken::Leadership,
                Err(_) => Woken::Ended,
            },
            update = self.updates.recv() => update.map_or(Woken::Ended, Woken::Update),
            Some(ask) = self.signed.recv() => Woken::Ask(ask),
            Some(ask) = self.asked.recv() => Woken::Ask(ask),
            () = tokio::time::sleep(deadline) => Woken::Deadline,
        }
    }

    fn take_in(&mut self, update: &Update) {
        self.core.committed(&update.delta);
        self.image = Arc::clone(&update.image);
    }

    fn take_in_all(&mut self) {
        while let Ok(update) = self.updates.try_recv() {
            self.take_in(&update);
        }
    }

    async fn on_leadership(&mut self) {
        let now = *self.leadership.borrow_and_update();
        let active = self.core.active_epoch();
        if active.is_some_and(|epoch| !now.is_self || epoch != now.epoch) {
            tracing::info!(epoch = active, "this node is no longer the active controller");
            self.core.resigned();
        }
        if !now.is_self || self.core.active_epoch().is_some() {
            return;
        }
        // Leadership is announced once the image has all from before the epoch; the updates that
        // made it so are in the queue.
        while self.image.position.epoch < now.epoch {
            match self.updates.recv().await {
                Some(update) => self.take_in(&update),
                None => return,
            }
        }
        self.take_in_all();
        tracing::info!(epoch = now.epoch, "this node is the active controller");
        let mut draft = Draft::new(&self.image);
        let at = self.clock.now();
        // Only what stands still in this office keeps it from hearing brokers.
        self.pulse.stood_still(at.mono);
        self.core.became_active(now.epoch, &mut draft, at);
        // A combined node's broker may have ended with its controller.
        let predecessor = self.quorum.leader_heard();
        if let Some((node, heard)) = predecessor {
            self.core.heard_before(node, heard, at);
        }
        // It ends with the sessions of this office at the latest.
        let predecessor = predecessor.map(|(node, _)| node);
        tokio::spawn(lines_driver::muster(self.handle.clone(), predecessor));
        self.commit(now.epoch, draft, Vec::new()).await;
    }

    /// Not the active controller: says who is.
    fn turn_away(&mut self, asks: Vec<Ask>) {
        let leader = self.leadership.borrow().leader;
        let signed = std::iter::from_fn(|| self.signed.try_recv().ok()).take(QUEUED_MAX);
        let queued = std::iter::from_fn(|| self.asked.try_recv().ok()).take(QUEUED_MAX);
        for ask in asks.into_iter().chain(signed).chain(queued) {
            let mut draft = Draft::new(&self.image);
            let outcome = self.core.handle(ask.command, &mut draft, self.clock.now());
            // The asker may have gone.
            let _ = ask.answer.send(outcome.lost(leader));
        }
    }

    /// Decides all that is queued, and what is due, in one draft.
    async fn round(&mut self, mut asks: Vec<Ask>) {
        let Some(epoch) = self.core.active_epoch() else { return };
        let now = self.clock.now();
        let mut draft = Draft::new(&self.image);
        let mut waiting = Waiting::new();
        // All that is known of brokers' lives comes before any of them is given up.
        asks.extend(std::iter::from_fn(|| self.signed.try_recv().ok()).take(QUEUED_MAX));
        loop {
            for ask in asks.drain(..) {
                let outcome = self.core.handle(ask.command, &mut draft, now);
                waiting.push((outcome, ask.answer));
            }
            if draft.bytes() >= ROUND_BYTES || waiting.len() >= ROUND_COMMANDS {
                break;
            }
            match self.asked.try_recv() {
                Ok(ask) => asks.push(ask),
                Err(_) => break,
            }
        }
        if self.pulse.stood_still(now.mono) {
            self.core.stood_still(now);
        }
        if self.core.next_deadline() <= now.mono {
            self.core.on_deadline(&mut draft, now);
        }
        self.commit(epoch, draft, waiting).await;
    }

    /// Proposes the draft entry by entry and answers what was decided with it.
    async fn commit(&mut self, epoch: LeaderEpoch, draft: Draft, waiting: Waiting) {
        let mut reached = self.image.position;
        for entry in draft.into_entries(ROUND_BYTES) {
            match self.quorum.propose(epoch, &entry).await {
                Ok(position) => reached = position,
                Err(e) => return self.lost(&e, waiting).await,
            }
        }
        while self.image.position.offset < reached.offset {
            match self.updates.recv().await {
                Some(update) => self.take_in(&update),
                None => return,
            }
        }
        for (outcome, answer) in waiting {
            // The asker may have gone.
            let _ = answer.send(outcome.settle(&self.image));
        }
    }

    async fn lost(&mut self, why: &ProposeError, waiting: Waiting) {
        let leader = match why {
            ProposeError::NotLeader { hint } => *hint,
            ProposeError::Superseded | ProposeError::TooLarge { .. } => None,
            ProposeError::Fatal(e) => {
                tracing::error!("the controller stops: {e}");
                self.failure.send_replace(Some(e.clone()));
                None
            }
        };
        tracing::warn!(commands = waiting.len(), "a decision was not committed: {why}");
        self.core.resigned();
        for (outcome, answer) in waiting {
            let _ = answer.send(outcome.lost(leader));
        }
        // If this member leads after all, its next turn begins with the committed image.
        tokio::time::sleep(REACTIVATE_AFTER).await;
        self.leadership.mark_changed();
    }
}
