//! One task a connection: frames in, answers out in request order. While nothing is pending, a
//! request is read, answered and its answer written by the same task without a hop.

use std::{
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesOrdered};
use tokio::{
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::{Instant, Sleep},
};
use tracing::{debug, warn};

use super::{
    memory::{Memory, Permit},
    reader::{Frame, FrameReader},
    service::{ConnInfo, ConnLimits, Dispatch, PendingResponse, Response, Service},
    spin::Spin,
    writer::{Flushed, Writer},
};

/// Answers of frames up to this size wait for those of frames already here, and share a write.
const COALESCED_FRAME_BYTES_MAX: usize = 4 * 1024;
/// With so many bytes of answers waiting, no more are made.
const WAITING_BYTES_MAX: usize = 64 * 1024;
/// After an answer of more than this nobody waits awake for the next request.
const SMALL_ANSWER_BYTES: u64 = 4 * 1024;
/// A buffer is given up when nothing came for so long.
const BUFFER_KEPT: Duration = Duration::from_secs(2);
/// Bytes a second that a sender must reach at least.
const FRAME_BYTES_PER_SECOND: u64 = 32 * 1024;

/// Until when connections may finish what they owe; `None` while the listener serves.
pub(super) type Stop = watch::Receiver<Option<Instant>>;

/// Waits for the end and says until when there is time. An owner that is gone means now.
pub(super) async fn stopped(stop: &mut Stop) -> Instant {
    let until = stop.wait_for(Option::is_some).await.ok().and_then(|until| *until);
    until.unwrap_or_else(Instant::now)
}

/// An answer in its place in the order.
enum Slot {
    Ready(Option<Response>),
    Pending(PendingResponse, #[expect(dead_code, reason = "held for its memory")] Option<Permit>),
}

impl Future for Slot {
    type Output = Response;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        match self.get_mut() {
            Self::Ready(response) => Poll::Ready(response.take().unwrap_or_default()),
            Self::Pending(future, _) => future.as_mut().poll(cx),
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    ByPeer,
    #[error("it was asked to")]
    ByService,
    #[error("nothing came for {0:?}")]
    Idle(Duration),
    #[error("{got} of {need} bytes of a frame came within {within:?}")]
    SlowFrame { got: usize, need: usize, within: Duration },
    #[error("nothing of an answer was taken for {0:?}")]
    Stalled(Duration),
    #[error(transparent)]
    BadLength(#[from] super::reader::BadLength),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the listener stopped")]
    Stopped,
}

struct Conn<'a, S: Service> {
    service: &'a S,
    info: &'a ConnInfo,
    limits: ConnLimits,
    session: S::Session,
    reader: FrameReader,
    writer: Writer,
    owed: FuturesOrdered<Slot>,
    /// No frame is dispatched any more; what is owed still goes out.
    draining: bool,
    /// When something last went in or out.
    active_at: Instant,
    /// When the frame that is being read began, or reading went on.
    frame_at: Option<Instant>,
    spin: Spin,
    /// The last request was waited for awake: others are to have their turn before the next.
    was_awake: bool,
}

/// Serves `stream` until it ends. Ends by itself on `stop`, when all that is owed is sent.
pub(super) async fn serve<S: Service>(
    mut stream: TcpStream,
    info: ConnInfo,
    service: Arc<S>,
    limits: ConnLimits,
    memory: Arc<Memory>,
    stop: Stop,
) {
    let conn = Conn {
        service: &*service,
        info: &info,
        limits,
        session: service.open(&info),
        reader: FrameReader::new(memory, limits.frame_bytes_max),
        writer: Writer::default(),
        owed: FuturesOrdered::new(),
        draining: false,
        active_at: Instant::now(),
        frame_at: None,
        spin: Spin::default(),
        was_awake: false,
    };
    let end = conn.run(&mut stream, stop).await;
    let (listener, peer) = (&info.listener, info.peer);
    match &end {
        End::BadLength(_) | End::SlowFrame { .. } | End::Stalled(_) => {
            warn!(%listener, %peer, "connection closed: {end}");
        }
        End::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::error!(%listener, %peer, "connection closed: {end}");
        }
        _ => debug!(%listener, %peer, "connection closed: {end}"),
    }
}

impl<S: Service> Conn<'_, S> {
    async fn run(mut self, stream: &mut TcpStream, mut stop: Stop) -> End {
        let (mut rd, wr) = stream.split();
        let mut timer = pin!(tokio::time::sleep_until(self.deadline()));
        let mut stopped = pin!(stopped(&mut stop));
        loop {
            match self.advance(&wr) {
                Ok(Flushed::Turn) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Ok(_) => {}
                Err(end) => return end,
            }
            if self.draining && self.owed.is_empty() && self.writer.is_empty() {
                return self.farewell(&wr);
            }
            if std::mem::take(&mut self.was_awake) {
                // Nobody may be looking after the other connections while this thread does not.
                tokio::task::yield_now().await;
            }
            if self.wait_awake(&wr) {
                self.was_awake = true;
                continue;
            }
            self.arm(timer.as_mut());
            let may_read = self.may_read();
            let may_take = self.writer.memory_bytes() < WAITING_BYTES_MAX;
            tokio::select! {
                biased;
                Some(response) = self.owed.next(), if may_take && !self.owed.is_empty() => {
                    self.accept(response);
                }
                ready = wr.writable(), if !self.writer.is_empty() => {
                    if let Err(e) = ready {
                        return e.into();
                    }
                }
                read = read_some(&mut self.reader, &mut rd), if may_read => match read {
                    Ok(0) => return End::ByPeer,
                    Ok(_) => {
                        self.frame_at.get_or_insert_with(Instant::now);
                    }
                    Err(e) => return e.into(),
                },
                () = timer.as_mut() => {
                    if let Some(end) = self.overdue() {
                        return end;
                    }
                }
                _ = &mut stopped, if !self.draining => {
                    self.draining = true;
                }
            }
        }
    }

    /// Waits for a small request on the processor where that has paid. Whether something came;
    /// the end of the stream and errors are left to the ordinary way.
    fn wait_awake(&mut self, wr: &WriteHalf<'_>) -> bool {
        let idle = self.owed.is_empty() && self.writer.is_empty() && !self.draining;
        if !idle || !self.reader.expects_small() {
            return false;
        }
        let reader = &mut self.reader;
        let socket = wr.as_ref();
        let found = self.spin.wait(self.limits.spin, || reader.fill_now(socket));
        if found {
            // It may be a part of a frame, whose time begins now.
            self.frame_at.get_or_insert_with(Instant::now);
        }
        found
    }

    /// Dispatches the frames that are here and writes what can be written.
    fn advance(&mut self, wr: &WriteHalf<'_>) -> Result<Flushed, End> {
        loop {
            let mut last_bytes = usize::MAX;
            while self.may_dispatch() {
                let Some(frame) = self.reader.next_frame()? else { break };
                last_bytes = frame.bytes.len();
                self.dispatch(frame)?;
                if last_bytes > COALESCED_FRAME_BYTES_MAX {
                    break;
                }
            }
            let before = self.writer.written();
            let flushed = self.writer.flush(wr.as_ref())?;
            if self.writer.written() > before {
                self.active_at = Instant::now();
                // What takes long to read is not followed by a request at once.
                if self.owed.is_empty() && self.writer.written() - before <= SMALL_ANSWER_BYTES {
                    self.spin.answered(self.active_at);
                }
            }
            let again = last_bytes != usize::MAX && flushed == Flushed::Done;
            if !again || !self.may_dispatch() {
                return Ok(flushed);
            }
        }
    }

    fn may_dispatch(&self) -> bool {
        !self.draining
            && self.owed.len() < self.limits.in_flight_max
            && self.writer.memory_bytes() < WAITING_BYTES_MAX
    }

    /// A peer that takes no answers is asked nothing new.
    fn may_read(&self) -> bool {
        self.writer.is_empty() && self.may_dispatch()
    }

    fn dispatch(&mut self, frame: Frame) -> Result<(), End> {
        self.active_at = Instant::now();
        self.spin.arrived(self.active_at, self.limits.spin);
        self.frame_at = self.reader.is_mid_frame().then_some(self.active_at);
        let Frame { bytes, permit } = frame;
        match self.service.call(self.info, &mut self.session, bytes) {
            Dispatch::Ready(response) if self.owed.is_empty() => self.accept(response),
            Dispatch::Ready(response) => self.owed.push_back(Slot::Ready(Some(response))),
            Dispatch::Pending(future) => self.owed.push_back(Slot::Pending(future, permit)),
            Dispatch::NoResponse => {}
            Dispatch::Close => return Err(End::ByService),
        }
        self.reader.recycle();
        Ok(())
    }

    fn accept(&mut self, response: Response) {
        self.active_at = Instant::now();
        self.writer.push(response.chunks);
        if response.close_after {
            self.draining = true;
            // What came later is not answered.
            self.owed.clear();
        }
    }

    /// Tells the peer that nothing follows.
    fn farewell(&self, wr: &WriteHalf<'_>) -> End {
        match rustix::net::shutdown(wr.as_ref(), rustix::net::Shutdown::Write) {
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => End::Stopped,
            Err(e) => io::Error::from(e).into(),
        }
    }

    fn frame_time(&self) -> Duration {
        let bytes = u64::try_from(self.reader.frame_bytes()).unwrap_or(u64::MAX);
        self.limits.frame + Duration::from_secs(bytes / FRAME_BYTES_PER_SECOND)
    }

    /// The moment by which something must have happened.
    fn deadline(&self) -> Instant {
        let reading = self.may_read();
        let idle_at = self.active_at + self.limits.idle;
        match self.frame_at {
            Some(began) if reading && self.reader.is_mid_frame() => began + self.frame_time(),
            _ if reading && self.reader.held_bytes() > 0 => {
                idle_at.min(self.active_at + BUFFER_KEPT)
            }
            _ => idle_at,
        }
    }

    /// Sets the timer if it would ring too late. One that rings too early is set anew then, which
    /// is cheaper than with every frame.
    fn arm(&mut self, timer: Pin<&mut Sleep>) {
        if !self.reader.is_mid_frame() {
            self.frame_at = None;
        } else if !self.may_read() {
            // The time in which we do not read is not the sender's.
            self.frame_at = Some(Instant::now());
        }
        let deadline = self.deadline();
        if deadline < timer.deadline() || timer.is_elapsed() {
            timer.reset(deadline);
        }
    }

    /// What has not happened in time, if anything.
    fn overdue(&mut self) -> Option<End> {
        let now = Instant::now();
        if now < self.deadline() {
            return None;
        }
        if self.may_read() && self.reader.is_mid_frame() {
            let (got, need) = (self.reader.held_len(), self.reader.frame_bytes());
            return Some(End::SlowFrame { got, need, within: self.frame_time() });
        }
        if !self.reader.is_mid_frame() {
            self.reader.release();
        }
        if now < self.active_at + self.limits.idle {
            return None;
        }
        if !self.writer.is_empty() {
            return Some(End::Stalled(self.limits.idle));
        }
        if self.owed.is_empty() {
            return Some(End::Idle(self.limits.idle));
        }
        // It waits for us.
        self.active_at = now;
        None
    }
}

/// Reads what there is. Without a buffer it first waits for something to read, so that idle
/// connections hold none.
async fn read_some(reader: &mut FrameReader, rd: &mut ReadHalf<'_>) -> io::Result<usize> {
    while reader.is_bare() {
        rd.readable().await?;
        match rd.try_read_buf(reader.first_buffer()) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => reader.recall(),
            done => return done,
        }
    }
    reader.fill(rd).await
}
