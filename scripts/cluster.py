"""A cluster of this project's nodes on one machine, in a directory that remembers it: `Cluster`.
`scripts/cluster` is its command line; the fault rounds, the client matrix and the benches use it as a
module. Standard library only.

With root every node has a network namespace of its own, joined by a router namespace where packets
between two nodes can be dropped in silence, one way or both, and links made slow. Without root, or on a
kernel that refuses namespaces, nodes listen on 127.0.0.1, 127.0.0.2, …, and cuts are refused.
"""
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import probe
from node import CLUSTER_ID, ROOT, NotRun, properties, target, until

SHIPPED = ROOT / "config" / "kraft"
FILES = {"broker,controller": "server", "broker": "broker", "controller": "controller"}


def run(*command, check=True):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.returncode == 0


class Net:
    """The namespaces of one cluster: a router, one for each node, and a way in for this machine."""

    def __init__(self, folder):
        digest = hashlib.sha256(str(folder).encode()).digest()
        self.tag = f"vl{digest[:2].hex()}"
        self.prefix = f"10.{200 + digest[2] % 50}.{digest[3]}"
        self.router, self.gateway, self.outside = f"{self.tag}r", f"{self.prefix}.254", \
            f"{self.prefix}.253"

    @staticmethod
    def why_not():
        """Why namespaces cannot be used here, or None."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        for program in ["ip", "nsenter"]:
            if shutil.which(program) is None:
                return f"{program} is not installed"
        if not run("ip", "netns", "add", "vlprobe", check=False):
            return "this kernel refuses network namespaces"
        run("ip", "netns", "del", "vlprobe", check=False)
        return None

    def namespace(self, node):
        return f"{self.tag}n{node}"

    def address(self, node):
        return f"{self.prefix}.{node}"

    def up(self, nodes):
        self.down(nodes)
        run("ip", "netns", "add", self.router)
        run("nsenter", f"--net=/run/netns/{self.router}", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        run("ip", "link", "add", f"{self.tag}h", "type", "veth", "peer", "name", "up0",
            "netns", self.router)
        run("ip", "addr", "add", f"{self.outside}/32", "dev", f"{self.tag}h")
        run("ip", "link", "set", f"{self.tag}h", "up")
        run("ip", "route", "add", self.gateway, "dev", f"{self.tag}h", "src", self.outside)
        run("ip", "route", "add", f"{self.prefix}.0/24", "via", self.gateway, "src", self.outside)
        self._join(self.router, "up0", self.outside)
        for node in nodes:
            space = self.namespace(node)
            run("ip", "netns", "add", space)
            run("ip", "link", "add", f"n{node}", "netns", self.router, "type", "veth", "peer",
                "name", "eth0", "netns", space)
            for link, address in [("lo", None), ("eth0", f"{self.address(node)}/32")]:
                if address:
                    run("ip", "-n", space, "addr", "add", address, "dev", link)
                run("ip", "-n", space, "link", "set", link, "up")
            run("ip", "-n", space, "route", "add", self.gateway, "dev", "eth0", "scope", "link")
            run("ip", "-n", space, "route", "add", "default", "via", self.gateway)
            self._join(self.router, f"n{node}", self.address(node))

    def _join(self, router, link, address):
        run("ip", "-n", router, "addr", "add", f"{self.gateway}/32", "dev", link)
        run("ip", "-n", router, "link", "set", link, "up")
        run("ip", "-n", router, "route", "add", address, "dev", link)

    def down(self, nodes):
        for space in [self.router, *map(self.namespace, nodes)]:
            run("ip", "netns", "del", space, check=False)
        run("ip", "link", "del", f"{self.tag}h", check=False)

    def cut(self, a, b):
        """Drops what `a` sends to `b`, in silence: the router forwards it no more."""
        run("ip", "-n", self.router, "rule", "add", "from", self.address(a), "to",
            self.address(b), "blackhole")

    def heal(self):
        while run("ip", "-n", self.router, "rule", "del", "blackhole", check=False):
            pass

    def slow(self, node, rate):
        """Lets the node receive `rate` (as tc spells it) and no more; `None` lifts it."""
        where = ["tc", "-n", self.router, "qdisc"]
        if rate is None:
            run(*where, "del", "dev", f"n{node}", "root", check=False)
        else:
            run(*where, "replace", "dev", f"n{node}", "root", "tbf", "rate", rate,
                "burst", "32kbit", "latency", "400ms")


class Node:
    """One node: where it lies, what it is, and its process."""

    def __init__(self, cluster, row):
        self.cluster, self.row, self.process = cluster, row, None

    id = property(lambda self: self.row["id"])
    roles = property(lambda self: self.row["roles"])
    host = property(lambda self: self.row["host"])
    folder = property(lambda self: Path(self.row["folder"]))
    data = property(lambda self: Path(self.row["data"]))
    config = property(lambda self: self.folder / "server.properties")
    pid = property(lambda self: self.row.get("pid"))
    broker = property(lambda self: "broker" in self.roles)
    controller = property(lambda self: "controller" in self.roles)
    address = property(lambda self: (self.host, self.row["port"]))
    controller_address = property(lambda self: (self.host, self.row["controller_port"]))

    def _stat(self):
        """State letter and start time of the process with our pid, or None."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return fields[0], fields[19]
        except (OSError, IndexError):
            return None

    def alive(self):
        if self.process is not None:
            self.process.poll()
        stat = self._stat() if self.pid else None
        return stat is not None and stat[0] != "Z" and stat[1] == self.row.get("born")

    def state(self):
        if not self.alive():
            return "down"
        return "paused" if self._stat()[0] in "Tt" else "up"

    def start(self):
        """Starts the process; does not wait for it."""
        if self.alive():
            raise RuntimeError(f"node {self.id} runs already")
        command = [self.cluster.program, "server", "start", self.config]
        if self.cluster.net:
            space = f"/run/netns/{self.cluster.net.namespace(self.id)}"
            command = ["nsenter", f"--net={space}", *command]
        with open(self.folder / "console.log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder,
                                            stdin=subprocess.DEVNULL, start_new_session=True)
        self.row["pid"] = self.process.pid
        self.row["born"] = self._stat()[1]
        self.cluster.save()

    def ready(self):
        """Whether it answers: a broker to ApiVersions, a controller to a connection."""
        if self.broker:
            return probe.answers(self.address)
        try:
            socket.create_connection(self.controller_address, 1).close()
            return True
        except OSError:
            return False

    def wait_ready(self, seconds=30):
        """Milliseconds until it answers."""
        try:
            return until(self.ready, seconds, f"node {self.id}", self.alive, pause=0.01)
        except RuntimeError as error:
            text = (self.folder / "console.log").read_text(errors="replace")[-1500:]
            raise RuntimeError(f"{error}\n{text}") from None

    def signal(self, number):
        if self.alive():
            os.kill(self.pid, number)

    def gone(self, seconds=30):
        until(lambda: not self.alive(), seconds, f"the end of node {self.id}", pause=0.002)

    def kill(self):
        """kill -9, and waits for the end."""
        self.signal(signal.SIGKILL)
        self.gone()

    def stop(self, seconds=60):
        """SIGTERM; milliseconds until it ended. Kills it when it does not."""
        self.signal(signal.SIGTERM)
        began = time.monotonic()
        try:
            self.gone(seconds)
        except RuntimeError:
            self.kill()
            raise RuntimeError(f"node {self.id} did not stop within {seconds} s of SIGTERM") \
                from None
        return (time.monotonic() - began) * 1000


class Cluster:
    """The nodes of the directory `folder`. `Cluster.make` lays a new one out."""

    def __init__(self, folder):
        self.folder = Path(folder).resolve()
        try:
            self.state = json.loads((self.folder / "cluster.json").read_text())
        except OSError:
            raise NotRun(f"no cluster in {self.folder}: `scripts/cluster up N` makes one") from None
        self.program = Path(self.state["program"])
        self.net = Net(self.folder) if self.state["namespaces"] else None
        self.nodes = {row["id"]: Node(self, row) for row in self.state["nodes"]}

    @classmethod
    def make(cls, folder, combined=0, controllers=0, brokers=0, program=None, changes=None,
             namespaces=None, data=None):
        """Lays out a cluster in place of an older one. `changes` are properties over the shipped
        files. `namespaces`: None takes them where they work. `data(id)`: where a node keeps its
        data, when not in its own directory."""
        folder = Path(folder).resolve()
        if (folder / "cluster.json").exists():
            cls(folder).down()
        roles = ["broker,controller"] * combined + ["controller"] * controllers + \
            ["broker"] * brokers
        if not any("controller" in r for r in roles):
            raise NotRun("a cluster needs a controller")
        if len(roles) > 200:
            raise NotRun(f"{len(roles)} nodes: 200 at most")
        why = Net.why_not() if namespaces is None else None
        use = why is None if namespaces is None else namespaces
        net = Net(folder) if use else None
        rows = [cls._row(folder, n, r, net) for n, r in enumerate(roles, 1)]
        for row in rows if data else []:
            row["data"] = str(data(row["id"]))
        state = {"program": str(Path(program or find_program()).resolve()), "namespaces": use,
                 "why": why, "nodes": rows, "cuts": []}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cluster.json").write_text(json.dumps(state, indent=1))
        made = cls(folder)
        if net:
            net.up(made.nodes)
        for node in made.nodes.values():
            made._configure(node, changes or {})
        return made

    @staticmethod
    def _row(folder, number, roles, net):
        host = net.address(number) if net else f"127.0.0.{number}"
        ports = (9092, 9093) if net else _free_ports(host, 2)
        own = folder / f"node-{number}"
        return {"id": number, "roles": roles, "host": host, "port": ports[0],
                "controller_port": ports[1], "folder": str(own), "data": str(own / "data")}

    def _configure(self, node, changes):
        shutil.rmtree(node.folder, ignore_errors=True)
        node.folder.mkdir(parents=True)
        voters = ",".join(f"{n.id}@{n.host}:{n.row['controller_port']}"
                          for n in self.nodes.values() if n.controller)
        listeners = {"broker": f"PLAINTEXT://{node.host}:{node.row['port']}",
                     "controller": f"CONTROLLER://{node.host}:{node.row['controller_port']}"}
        mine = ",".join(v for k, v in listeners.items() if k in node.roles)
        count = sum(n.broker for n in self.nodes.values())
        copies = str(min(3, count) or 1)
        keys = properties(SHIPPED / f"{FILES[node.roles]}.properties")
        keys.pop("controller.quorum.bootstrap.servers", None)
        keys |= {"node.id": str(node.id), "controller.quorum.voters": voters, "listeners": mine,
                 "advertised.listeners": mine, "log.dirs": str(node.data)}
        if node.broker:
            keys |= {"offsets.topic.replication.factor": copies,
                     "transaction.state.log.replication.factor": copies}
        keys |= {"default.replication.factor": copies,
                 "min.insync.replicas": "2" if count >= 3 else "1"}
        keys |= changes
        node.config.write_text("".join(f"{k}={v}\n" for k, v in keys.items()))

    def format(self):
        """Formats every directory that is not formatted."""
        for node in self.nodes.values():
            if (node.data / "meta.properties").exists():
                continue
            done = subprocess.run([self.program, "storage", "format", "-t", CLUSTER_ID, "-c",
                                   node.config], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"format of node {node.id}: {done.stderr or done.stdout}")

    def up(self, seconds=60):
        """Formats and starts all; milliseconds until every node answers."""
        self.format()
        began = time.monotonic()
        for node in self.nodes.values():
            if not node.alive():
                node.start()
        for node in self.nodes.values():
            node.wait_ready(seconds)
        return (time.monotonic() - began) * 1000

    def down(self):
        """Ends every process (SIGCONT, SIGTERM, then SIGKILL) and takes the namespaces away."""
        for node in self.nodes.values():
            node.signal(signal.SIGCONT)
            node.signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        for node in self.nodes.values():
            try:
                node.gone(max(deadline - time.monotonic(), 0.01))
            except RuntimeError:
                node.kill()
        if self.net:
            self.net.down(self.nodes)
        (self.folder / "cluster.json").unlink(missing_ok=True)

    def save(self):
        (self.folder / "cluster.json").write_text(json.dumps(self.state, indent=1))

    def brokers(self):
        return [n for n in self.nodes.values() if n.broker]

    def controllers(self):
        return [n for n in self.nodes.values() if n.controller]

    @property
    def bootstrap(self):
        return ",".join(f"{n.host}:{n.row['port']}" for n in self.brokers())

    def node(self, number):
        if number not in self.nodes:
            raise NotRun(f"there is no node {number}; nodes are {sorted(self.nodes)}")
        return self.nodes[number]

    def cut(self, a, b, one_way=False):
        """What `a` sends to `b` is lost; both ways unless `one_way`."""
        if not self.net:
            raise NotRun(f"cuts need network namespaces: {self.state['why'] or 'not used here'}")
        for x, y in [(a, b)] if one_way else [(a, b), (b, a)]:
            self.node(x), self.node(y)
            self.net.cut(x, y)
            self.state["cuts"].append([x, y])
        self.save()

    def slow(self, number, rate):
        if not self.net:
            raise NotRun(f"slow links need network namespaces: {self.state['why'] or 'not used'}")
        self.node(number)
        self.net.slow(number, rate)

    def heal(self):
        """Ends every cut, slow link and pause."""
        if self.net:
            self.net.heal()
            for number in self.nodes:
                self.net.slow(number, None)
        for node in self.nodes.values():
            node.signal(signal.SIGCONT)
        self.state["cuts"] = []
        self.save()

    def ask(self, question):
        """The first answer of a broker that is up to `question(address)`."""
        last = NotRun("no broker is up")
        for node in self.brokers():
            if node.state() == "up":
                try:
                    return question(node.address)
                except OSError as error:
                    last = error
        raise last

    def active_controller(self):
        """The node id that leads the metadata quorum, as any node tells it."""
        if len(self.controllers()) == 1:
            return self.controllers()[0].id
        last = NotRun("no node tells who leads the quorum")
        for node in self.nodes.values():
            if node.state() == "up":
                try:
                    return probe.quorum(node.address if node.broker else node.controller_address)[0]
                except OSError as error:
                    last = error
        raise last


def find_program():
    """`$NODE_BINARY`, or the newest of the release and the debug build."""
    if "NODE_BINARY" in os.environ:
        return os.environ["NODE_BINARY"]
    built = [p for p in (target() / kind / "vltava" for kind in ["release", "debug"]) if p.exists()]
    if not built:
        raise NotRun("no binary: `cargo build --release --bin vltava`, or --binary PATH")
    return max(built, key=lambda p: p.stat().st_mtime)


def _free_ports(host, count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind((host, 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
