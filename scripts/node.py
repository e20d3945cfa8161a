"""Nodes under test, for the scripts beside this file: `Vltava` (this project's release binary) and
`Kafka` (a real Apache Kafka, by scripts/peer). Both are started in a directory of their own on
free ports of 127.0.0.1 and stopped by their process id. Standard library only."""
import os
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("CLIENT_CACHE") or
             Path(os.environ.get("TMPDIR", "/tmp")) / "vltava-clients")
CLUSTER_ID = "MkU3OEVBNTcwNTJENDM2Qg"


class NotRun(Exception):
    """A leg cannot be run here; the text is the reason."""


def free_ports(count):
    """Ports nobody listens on now. They are taken together, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def cargo(*args, **more):
    subprocess.run(["cargo", *args], cwd=ROOT, check=True, **more)


def binary():
    """The release binary: `$NODE_BINARY`, or built here."""
    if "NODE_BINARY" in os.environ:
        return Path(os.environ["NODE_BINARY"]).resolve()
    cargo("build", "--release", "--quiet", "--bin", "vltava")
    return target() / "release" / "vltava"


def example(name):
    """A release build of `examples/NAME.rs`."""
    if "NODE_EXAMPLES" in os.environ:
        return Path(os.environ["NODE_EXAMPLES"]) / name
    cargo("build", "--release", "--quiet", "--example", name)
    return target() / "release" / "examples" / name


def target():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def properties(path):
    """The keys and values of a plain properties file, in its order."""
    pairs = (line.split("=", 1) for line in Path(path).read_text().splitlines()
             if "=" in line and not line.lstrip().startswith(("#", "!")))
    return {k.strip(): v.strip() for k, v in pairs}


# One request on a fresh connection. -------------------------------------------------------------

def _exact(s, n):
    out = b""
    while len(out) < n:
        part = s.recv(n - len(out))
        if not part:
            raise OSError("closed")
        out += part
    return out


def request(port, key, version, body=b"", timeout=2.0):
    """Sends one request with header v1; gives the bytes after the correlation id."""
    head = struct.pack(">hhih", key, version, 7, 5) + b"probe"
    with socket.create_connection(("127.0.0.1", port), timeout) as s:
        s.settimeout(timeout)
        s.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        answer = _exact(s, struct.unpack(">i", _exact(s, 4))[0])
    if struct.unpack(">i", answer[:4])[0] != 7:
        raise OSError("another correlation id")
    return answer[4:]


def answers_api_versions(port):
    try:
        return struct.unpack(">h", request(port, 18, 0)[:2])[0] == 0
    except OSError:
        return False


def latest_offset(port, topic, partition):
    """ListOffsets v1 for the end of one partition; raises `OSError` on any error code."""
    name = topic.encode()
    body = struct.pack(">iih", -1, 1, len(name)) + name + struct.pack(">iiq", 1, partition, -1)
    answer = request(port, 2, 1, body)
    at = 4 + 2 + len(name) + 4 + 4
    error, _, offset = struct.unpack(">hqq", answer[at:at + 18])
    if error:
        raise OSError(f"error code {error}")
    return offset


def until(probe, seconds, what, alive=lambda: True, pause=0.002):
    """Milliseconds until `probe()` is true."""
    began = time.monotonic()
    while not probe():
        if not alive():
            raise RuntimeError(f"{what}: the process ended")
        if time.monotonic() - began > seconds:
            raise RuntimeError(f"{what}: not within {seconds} s")
        time.sleep(pause)
    return (time.monotonic() - began) * 1000


# What /proc tells. ------------------------------------------------------------------------------

def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid, key="VmRSS"):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {key}")


# The two kinds of node. -------------------------------------------------------------------------

class Vltava:
    """This project's node. `folder` is its own; `changes` are properties over
    config/kraft/server.properties. The ports stay the same over restarts."""
    name = "vltava"

    def __init__(self, folder, log_dir=None, **changes):
        self.folder, self.process = Path(folder), None
        self.log_dir = Path(log_dir or self.folder / "data")
        self.port, self.controller_port = free_ports(2)
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.program = binary()
        self.config = self.folder / "server.properties"
        self.changes = {k.replace("_", "."): v for k, v in changes.items()}
        self.starts = 0

    def format(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = properties(ROOT / "config" / "kraft" / "server.properties")
        keys.pop("controller.quorum.bootstrap.servers", None)
        keys |= {
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},"
                         f"CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.quorum.voters": f"{keys['node.id']}@127.0.0.1:{self.controller_port}",
            "log.dirs": str(self.log_dir), "offsets.topic.replication.factor": "1",
        }
        self.config.write_text("".join(f"{k}={v}\n" for k, v in keys.items()))
        done = subprocess.run(
            [self.program, "storage", "format", "-t", CLUSTER_ID, "-c", self.config],
            capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"format failed: {done.stderr.strip() or done.stdout.strip()}")
        return self

    def start(self, seconds=30):
        """Starts the node; gives milliseconds from exec to the first ApiVersions answer."""
        command = [self.program, "server", "start", self.config]
        for key, value in self.changes.items():
            command += ["--override", f"{key}={value}"]
        self.starts += 1
        with open(self.folder / "console.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            return until(lambda: answers_api_versions(self.port), seconds, "first answer",
                         self.alive)
        except RuntimeError as error:
            self.kill()
            tail = (self.folder / "console.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the node did not start: {error}\n{tail}") from None

    def alive(self):
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self):
        return self.process.pid

    def kill(self):
        """kill -9."""
        if self.alive():
            self.process.kill()
        if self.process is not None:
            self.process.wait()

    def stop(self, seconds=30):
        """SIGTERM; gives the exit code, or raises when the node does not end in time."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds) if self.process else 0
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"the node did not stop within {seconds} s of SIGTERM") from None


class Kafka:
    """A real Apache Kafka by scripts/peer."""
    name = "kafka"

    def __init__(self, folder, **changes):
        self.folder = Path(folder)
        self.log_dir = self.folder / "data"
        self.port, self.controller_port = free_ports(2)
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.changes = [f"{k.replace('_', '.')}={v}" for k, v in changes.items()]

    def format(self):
        return self

    def start(self, seconds=90):
        """Starts Kafka; gives milliseconds from exec to the first ApiVersions answer."""
        env = {**os.environ, "KAFKA_CONTROLLER_PORT": str(self.controller_port),
               "KAFKA_START_TIMEOUT": str(seconds)}
        done = subprocess.run([ROOT / "scripts" / "peer" / "start-kafka", str(self.port),
                               self.folder, *self.changes],
                              capture_output=True, text=True, env=env)
        if done.returncode:
            raise RuntimeError(f"Apache Kafka did not start: {done.stderr[-1000:]}")
        return float(done.stdout.split("answered after ")[1].split()[0])

    @property
    def pid(self):
        return int((self.folder / "kafka.pid").read_text())

    def alive(self):
        try:
            return " Z " not in Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False

    def stop(self, seconds=180):
        """SIGTERM, and SIGKILL where that does not end it: many partitions take it long."""
        if self.alive():
            done = subprocess.run([ROOT / "scripts" / "peer" / "stop-kafka", self.folder,
                                   str(seconds)], capture_output=True)
            if done.returncode:
                os.kill(self.pid, signal.SIGKILL)
                until(lambda: not self.alive(), 30, "the end of Apache Kafka", pause=0.05)
        return 0
