//! Connections as peers see them, against a service of a few one-letter commands.

use std::{
    io,
    os::fd::BorrowedFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};

use vltava::{
    base::ports::{File, FileSlice, Fs as _, OpenMode},
    net::{
        ConnInfo, ConnLimits, ConnectionLimits, ConnectionQuota, Dispatch, Listener,
        ListenerConfig, ListenerHandle, Memory, NetError, PeerClient, PeerConfig, Response,
        Service, Shared, serve_accepted,
    },
    os::OsFs,
    wire::Chunk,
};

/// Answers a frame by its ninth byte: `e` echo, `w` echo once released, `n` nothing, `c` echo and
/// close, `x` close, `f` the file, `z` many zeros.
#[derive(Debug)]
struct Toy {
    release: Arc<Semaphore>,
    file: FileSlice,
    calls: mpsc::UnboundedSender<u8>,
}

fn answer(frame: &Bytes, body: Vec<Chunk>) -> Vec<Chunk> {
    let len: usize = body.iter().map(Chunk::len).sum();
    let mut head = i32::try_from(4 + len).unwrap().to_be_bytes().to_vec();
    head.extend_from_slice(&frame[4..8]);
    let mut chunks = vec![Chunk::Bytes(head.into())];
    chunks.extend(body);
    chunks
}

impl Service for Toy {
    type Session = usize;

    fn open(&self, _: &ConnInfo) -> usize {
        0
    }

    fn call(&self, _: &ConnInfo, calls: &mut usize, frame: Bytes) -> Dispatch {
        *calls += 1;
        let command = frame.get(8).copied().unwrap_or_default();
        _ = self.calls.send(command);
        let echo = |f: &Bytes| answer(f, vec![Chunk::Bytes(Bytes::copy_from_slice(&f[8..]))]);
        match command {
            b'e' => Dispatch::Ready(echo(&frame).into()),
            b'w' => {
                let release = Arc::clone(&self.release);
                Dispatch::Pending(Box::pin(async move {
                    release.acquire().await.unwrap().forget();
                    echo(&frame).into()
                }))
            }
            b'n' => Dispatch::NoResponse,
            b'c' => Dispatch::Ready(Response { chunks: echo(&frame), close_after: true }),
            b'f' => {
                let tail = Chunk::Bytes(Bytes::from_static(b"tail"));
                let body = vec![Chunk::File(self.file.clone()), tail];
                Dispatch::Ready(answer(&frame, body).into())
            }
            b'z' => {
                let body = vec![Chunk::Bytes(Bytes::from(vec![0; 64 << 20]))];
                Dispatch::Ready(answer(&frame, body).into())
            }
            _ => Dispatch::Close,
        }
    }
}

/// A file in memory, without a descriptor.
#[derive(Debug)]
struct NoFd(Vec<u8>);

impl File for NoFd {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let from = self.0.get(usize::try_from(pos).unwrap()..).unwrap_or_default();
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }
    fn write_all_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn modified_ms(&self) -> io::Result<i64> {
        Ok(0)
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

struct House {
    handle: ListenerHandle,
    release: Arc<Semaphore>,
    shared: Shared,
    calls: mpsc::UnboundedReceiver<u8>,
}

const MAX: usize = 4 << 20;

async fn house_with(file: FileSlice, limits: ConnectionLimits, conn: ConnLimits) -> House {
    let mut config = ListenerConfig::new("PLAINTEXT", "127.0.0.1", 0);
    config.conn = ConnLimits { frame_bytes_max: MAX, ..conn };
    let release = Arc::new(Semaphore::new(0));
    let (tell, calls) = mpsc::unbounded_channel();
    let toy = Toy { release: Arc::clone(&release), file, calls: tell };
    let quota = Arc::new(ConnectionQuota::new(limits));
    let shared = Shared { memory: Arc::new(Memory::new(16 << 20, MAX)), quota };
    let listener = Listener::bind(config).await.unwrap();
    let handle = listener.serve(Arc::new(toy), shared.clone());
    House { handle, release, shared, calls }
}

fn nothing() -> FileSlice {
    FileSlice { file: Arc::new(NoFd(vec![])), pos: 0, len: 0 }
}

async fn house() -> House {
    house_with(nothing(), ConnectionLimits::default(), ConnLimits::default()).await
}

impl House {
    async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.handle.address()).await.unwrap()
    }

    async fn peer(&self) -> PeerClient {
        let config = PeerConfig { frame_bytes_max: 128 << 20, ..PeerConfig::new() };
        PeerClient::connect("127.0.0.1", self.handle.address().port(), &config).await.unwrap()
    }
}

fn request(id: i32, body: &[u8]) -> Vec<u8> {
    let mut out = i32::try_from(8 + body.len()).unwrap().to_be_bytes().to_vec();
    out.extend([0; 4]);
    out.extend(id.to_be_bytes());
    out.extend(body);
    out
}

fn chunks(id: i32, body: &[u8]) -> Vec<Chunk> {
    vec![Chunk::Bytes(request(id, body).into())]
}

#[tokio::test]
async fn answers_leave_in_request_order() {
    let house = house().await;
    let mut raw = house.raw().await;
    // In one write: the waiting ones hold back those that are ready.
    let all = [request(1, b"w1"), request(2, b"e2"), request(3, b"n"), request(4, b"w4")].concat();
    let ids = [1, 2, 4, 5];
    raw.write_all(&all).await.unwrap();
    raw.write_all(&request(5, b"e5")).await.unwrap();
    house.release.add_permits(2);
    for id in ids {
        let mut got = [0; 10];
        raw.read_exact(&mut got).await.unwrap();
        assert_eq!(got[4..8], i32::to_be_bytes(id));
        assert_eq!(got[9], b'0' + u8::try_from(id).unwrap());
    }
}

#[tokio::test]
async fn frames_of_every_size_come_back() {
    let house = house().await;
    let mut peer = house.peer().await;
    for (id, len) in [1, 100, 4096, 65_536, 65_537, 1 << 20, MAX - 8, 1 << 20, 3].iter().enumerate()
    {
        let mut body = vec![b'e'];
        body.extend((1..*len).map(|i| (i % 251) as u8));
        let got = peer.call(chunks(id as i32, &body)).await.unwrap();
        assert!(got[4..] == body, "{len}");
    }
    assert_eq!(house.shared.memory.available_bytes(), 16 << 20);
}

#[tokio::test]
async fn lengths_out_of_bounds_close_the_connection() {
    let house = house().await;
    for length in [0, -1, i32::MIN, i32::MAX, i32::try_from(MAX).unwrap() + 1] {
        let mut raw = house.raw().await;
        raw.write_all(&length.to_be_bytes()).await.unwrap();
        assert_eq!(raw.read(&mut [0; 8]).await.unwrap_or(0), 0, "{length}");
    }
}

#[tokio::test]
async fn close_after_sends_the_answer_and_close_sends_none() {
    let house = house().await;
    let mut raw = house.raw().await;
    raw.write_all(&[request(1, b"c"), request(2, b"e")].concat()).await.unwrap();
    let mut got = Vec::new();
    raw.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, [&5i32.to_be_bytes()[..], &1i32.to_be_bytes(), b"c"].concat());
    let mut peer = house.peer().await;
    let got = peer.call(chunks(1, b"x")).await;
    assert!(matches!(got, Err(NetError::Broken { .. })), "{got:?}");
}

/// A client of its own thread, with answers in time.
fn blocking(house: &House) -> std::net::TcpStream {
    let stream = std::net::TcpStream::connect(house.handle.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn ask(stream: &mut std::net::TcpStream, whole: &[u8]) {
    use std::io::{Read as _, Write as _};
    stream.write_all(whole).unwrap();
    let mut answer = vec![0; whole.len() - 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[8..], whole[12..]);
}

/// A client that is waited for awake is not served alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_client_leaves_room_for_its_neighbours() {
    let conn = ConnLimits { spin: Duration::from_millis(20), ..ConnLimits::default() };
    let house = house_with(nothing(), ConnectionLimits::default(), conn).await;
    let (mut prompt, mut other) = (blocking(&house), blocking(&house));
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&stop);
    let whole = request(1, b"eprompt");
    let hammer = whole.clone();
    let hammering = tokio::task::spawn_blocking(move || {
        while !ended.load(Ordering::Relaxed) {
            ask(&mut prompt, &hammer);
        }
    });
    let neighbour = tokio::task::spawn_blocking(move || {
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(1));
            ask(&mut other, &whole);
        }
    });
    let done = neighbour.await;
    stop.store(true, Ordering::Relaxed);
    hammering.await.unwrap();
    done.expect("the neighbour is answered");
}

/// What a thread that waits awake has read of a frame has as long to be whole as any frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_client_may_be_slow_once() {
    use std::io::Write as _;
    let conn = ConnLimits { spin: Duration::from_millis(300), ..ConnLimits::default() };
    let house = house_with(nothing(), ConnectionLimits::default(), conn).await;
    let mut raw = blocking(&house);
    let whole = request(1, b"eprompt");
    let slow = tokio::task::spawn_blocking(move || {
        for _ in 0..12 {
            ask(&mut raw, &whole);
        }
        raw.write_all(&whole[..2]).unwrap();
        // Longer than a connection keeps a buffer into which nothing comes.
        std::thread::sleep(Duration::from_millis(2500));
        raw.write_all(&whole[2..]).unwrap();
        let mut answer = vec![0; whole.len() - 4];
        io::Read::read_exact(&mut raw, &mut answer).unwrap();
        assert_eq!(answer[8..], whole[12..]);
    });
    slow.await.unwrap();
}

#[tokio::test]
async fn a_slow_sender_reserves_nothing() {
    let house = house().await;
    let mut slow: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        let mut raw = house.raw().await;
        raw.write_all(&i32::try_from(MAX).unwrap().to_be_bytes()).await.unwrap();
        raw.write_all(&[0; 1000]).await.unwrap();
        slow.push(raw);
    }
    let mut peer = house.peer().await;
    let body = vec![b'e'; 1 << 20];
    assert!(peer.call(chunks(7, &body)).await.unwrap()[4..] == body);
    assert_eq!(house.shared.memory.available_bytes(), 16 << 20);
}

#[tokio::test]
async fn frames_that_do_not_come_and_idle_peers_are_closed() {
    let short = |frame, idle| ConnLimits {
        frame: Duration::from_millis(frame),
        idle: Duration::from_millis(idle),
        ..ConnLimits::default()
    };
    for (conn, begun) in [(short(20, 600_000), true), (short(600_000, 20), false)] {
        let house = house_with(nothing(), ConnectionLimits::default(), conn).await;
        let mut raw = house.raw().await;
        raw.write_all(&request(1, b"e")).await.unwrap();
        raw.read_exact(&mut [0; 9]).await.unwrap();
        if begun {
            raw.write_all(&[0, 0, 1]).await.unwrap();
        }
        assert_eq!(raw.read(&mut [0; 8]).await.unwrap_or(0), 0);
    }
    // Who waits for us is not idle.
    let mut house = house_with(nothing(), ConnectionLimits::default(), short(20, 20)).await;
    let mut peer = house.peer().await;
    peer.send(chunks(1, b"w")).await.unwrap();
    assert_eq!(house.calls.recv().await, Some(b'w'));
    tokio::time::sleep(Duration::from_millis(50)).await;
    house.release.add_permits(1);
    peer.receive().await.unwrap();
}

#[tokio::test]
async fn answers_in_flight_are_limited() {
    let conn = ConnLimits { in_flight_max: 3, ..ConnLimits::default() };
    let mut house = house_with(nothing(), ConnectionLimits::default(), conn).await;
    let mut peer = house.peer().await;
    for id in 0..10 {
        peer.send(chunks(id, b"w")).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(house.calls.recv().await, Some(b'w'));
    }
    // Each answer makes room for one more frame, and for no other.
    for id in 0..10 {
        tokio::task::yield_now().await;
        assert!(house.calls.is_empty(), "after {id}");
        house.release.add_permits(1);
        assert_eq!(peer.receive().await.unwrap()[..4], i32::to_be_bytes(id));
        if id < 7 {
            assert_eq!(house.calls.recv().await, Some(b'w'));
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 253) as u8).collect()
}

async fn check_file(file: Arc<dyn File>, content: &[u8]) {
    let slice = FileSlice { file, pos: 13, len: content.len() - 13 };
    let house = house_with(slice, ConnectionLimits::default(), ConnLimits::default()).await;
    let mut peer = house.peer().await;
    for id in 0..3 {
        peer.send(chunks(id, b"f")).await.unwrap();
    }
    for _ in 0..3 {
        let got = peer.receive().await.unwrap();
        let (body, tail) = got[4..].split_at(content.len() - 13);
        assert!(body == &content[13..]);
        assert_eq!(tail, b"tail");
    }
}

#[tokio::test]
async fn file_slices_arrive_as_they_are() {
    let content = pattern((9 << 20) + 5);
    let dir = tempfile::tempdir().unwrap();
    let file = OsFs.open(&dir.path().join("x.log"), OpenMode::Create).unwrap();
    file.write_all_at(&[&content], 0).unwrap();
    check_file(file, &content).await;
    check_file(Arc::new(NoFd(content.clone())), &content).await;
}

#[tokio::test]
async fn a_file_that_shrank_closes_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("x.log");
    let file = OsFs.open(path, OpenMode::Create).unwrap();
    file.write_all_at(&[&[1; 100]], 0).unwrap();
    let slice = FileSlice { file, pos: 0, len: 101 };
    let house = house_with(slice, ConnectionLimits::default(), ConnLimits::default()).await;
    let got = house.peer().await.call(chunks(1, b"f")).await;
    assert!(matches!(got, Err(NetError::Broken { .. })), "{got:?}");
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_asked_nothing() {
    let mut house = house().await;
    let mut raw = house.raw().await;
    for id in 0..3 {
        raw.write_all(&request(id, b"z")).await.unwrap();
    }
    assert_eq!(house.calls.recv().await, Some(b'z'));
    // Others are served meanwhile.
    house.peer().await.call(chunks(1, b"e")).await.unwrap();
    assert_eq!(house.calls.recv().await, Some(b'e'));
    assert!(house.calls.is_empty(), "the second answer is not made before the first is taken");
}

#[tokio::test]
async fn many_idle_connections_do_not_matter() {
    let house = house().await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(house.raw().await);
    }
    let mut peer = house.peer().await;
    for id in 0..50 {
        peer.call(chunks(id, b"e")).await.unwrap();
    }
    for raw in &mut idle {
        raw.write_all(&request(9, b"e")).await.unwrap();
        raw.read_exact(&mut [0; 9]).await.unwrap();
    }
    drop(idle);
    while house.shared.quota.open() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_are_limited_by_address_and_in_all() {
    let limits = ConnectionLimits { total: 3, per_ip: 2, ..ConnectionLimits::default() };
    let house = house_with(nothing(), limits.clone(), ConnLimits::default()).await;
    let (mut a, mut b) = (house.peer().await, house.peer().await);
    a.call(chunks(1, b"e")).await.unwrap();
    b.call(chunks(1, b"e")).await.unwrap();
    assert_eq!(house.raw().await.read(&mut [0; 1]).await.unwrap_or(0), 0, "a third is closed");
    // With no place left at all, a connection waits in the backlog until one is free.
    house.shared.quota.set_limits(ConnectionLimits { total: 2, per_ip: 9, ..limits });
    let mut c = house.peer().await;
    c.send(chunks(1, b"e")).await.unwrap();
    drop(a);
    c.receive().await.unwrap();
    b.call(chunks(2, b"e")).await.unwrap();
}

#[tokio::test]
async fn stopping_waits_for_what_is_owed() {
    let mut house = house().await;
    let (mut busy, mut idle) = (house.peer().await, house.raw().await);
    busy.send(chunks(1, b"w")).await.unwrap();
    assert_eq!(house.calls.recv().await, Some(b'w'));
    let address = house.handle.address();
    let release = Arc::clone(&house.release);
    let stop = tokio::spawn(house.handle.stop(Duration::from_secs(60)));
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "idle connections end at once");
    assert!(TcpStream::connect(address).await.is_err());
    assert!(!stop.is_finished());
    release.add_permits(1);
    busy.receive().await.unwrap();
    stop.await.unwrap();
}

#[tokio::test]
async fn stopping_ends_what_does_not_finish() {
    let mut house = house().await;
    let mut busy = house.peer().await;
    busy.send(chunks(1, b"w")).await.unwrap();
    assert_eq!(house.calls.recv().await, Some(b'w'));
    house.handle.stop(Duration::from_millis(20)).await;
    assert!(matches!(busy.receive().await, Err(NetError::Broken { .. })));
    assert_eq!(house.shared.quota.open(), 0);
}

#[tokio::test]
async fn connections_that_another_accepted_are_served_and_ended() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (to, accepted) = mpsc::channel(1);
    let (tell, _calls) = mpsc::unbounded_channel();
    let toy = Toy { release: Arc::new(Semaphore::new(0)), file: nothing(), calls: tell };
    let shared = Shared { memory: Arc::new(Memory::new(0, MAX)), quota: Arc::default() };
    let config = ListenerConfig::new("CONTROLLER", "", 0);
    let handle = serve_accepted(config, address, accepted, Arc::new(toy), shared.clone());
    assert_eq!(handle.address(), address);
    let terms = PeerConfig::new();
    let mut kafka = PeerClient::connect("127.0.0.1", address.port(), &terms).await.unwrap();
    to.send(socket.accept().await.unwrap()).await.unwrap();
    kafka.call(chunks(1, b"e")).await.unwrap();
    handle.stop(Duration::from_millis(20)).await;
    assert!(kafka.call(chunks(2, b"e")).await.is_err());
    assert_eq!(shared.quota.open(), 0);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let house = house().await;
    let port = house.handle.address().port();
    let got = Listener::bind(ListenerConfig::new("TWO", "127.0.0.1", port)).await;
    let text = got.unwrap_err().to_string();
    assert!(text.contains("TWO") && text.contains(&format!("127.0.0.1:{port}")), "{text}");
    let mut odd = ListenerConfig::new("ODD", "127.0.0.1", 0);
    odd.congestion_control = Some("no-such-thing".to_owned());
    let text = Listener::bind(odd).await.unwrap_err().to_string();
    assert!(text.contains("no-such-thing"), "{text}");
}
