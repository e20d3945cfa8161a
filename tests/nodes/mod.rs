//! Real nodes, each a broker and a controller, for the tests that speak to them by raw frames or by
//! librdkafka. Each test uses a part of it.

#![allow(dead_code)]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTER_ID: &str = "AAAAAAAAAAAAAAAAAAAABA";

fn vltava(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vltava"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

pub(crate) struct Node {
    config: PathBuf,
    pub(crate) port: u16,
    process: Child,
    _dir: Arc<tempfile::TempDir>,
}

impl Node {
    /// `count` nodes whose files end with the last of them; that at `n` has the id `n + 1`. `extra`:
    /// more lines of their settings.
    pub(crate) fn cluster(count: usize, extra: &str) -> Vec<Self> {
        // All are held until all are known, so that none is drawn twice.
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let held: Vec<_> = (0..count * 2).map(|_| bind()).collect();
        let ports: Vec<u16> = held.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(held);
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let voter = |n: usize| format!("{}@127.0.0.1:{}", n + 1, ports[n * 2]);
        let voters: Vec<_> = (0..count).map(voter).collect();
        let start = |n: usize| {
            let (controller, port) = (ports[n * 2], ports[n * 2 + 1]);
            let config = dir.path().join(format!("{n}.properties"));
            let text = format!(
                "process.roles=broker,controller\nnode.id={}\ncontroller.quorum.voters={}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 controller.listener.names=CONTROLLER\nlog.dirs={at}/data{n}\n\
                 vltava.log.file={at}/node{n}.log\n{extra}",
                n + 1,
                voters.join(","),
                at = dir.path().display(),
            );
            fs::write(&config, text).unwrap();
            let format = ["storage", "format", "-t", CLUSTER_ID, "-c", config.to_str().unwrap()];
            assert!(vltava(&format).status().unwrap().success());
            let process = Self::run(&config);
            Self { config, port, process, _dir: Arc::clone(&dir) }
        };
        let nodes: Vec<_> = (0..count).map(start).collect();
        nodes.iter().for_each(Self::await_listening);
        nodes
    }

    fn run(config: &Path) -> Child {
        vltava(&["server", "start", config.to_str().unwrap()]).spawn().unwrap()
    }

    fn await_listening(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "the node does not listen");
            sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGSTOP freezes the process, SIGCONT lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    pub(crate) fn restart(&mut self) {
        self.process = Self::run(&self.config);
        self.await_listening();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
