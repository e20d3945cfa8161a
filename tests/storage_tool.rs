//! The storage tool and the start of a server, driven as processes. What is expected was taken down
//! from Apache Kafka 4.3.1's `kafka-storage.sh`; the order of directories alone is ours (sorted).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use vltava::{
    base::NodeId,
    config::meta_properties::{META_PROPERTIES, MetaProperties},
    record::bootstrap::BootstrapFile,
};

const BOOTSTRAP: &str = "Bootstrap metadata: BootstrapMetadata(records=[ApiMessageAndVersion(\
    FeatureLevelRecord(name='metadata.version', featureLevel=30) at version 0), \
    ApiMessageAndVersion(FeatureLevelRecord(name='eligible.leader.replicas.version', \
    featureLevel=1) at version 0), ApiMessageAndVersion(FeatureLevelRecord(name='group.version', \
    featureLevel=1) at version 0), ApiMessageAndVersion(FeatureLevelRecord(name='share.version', \
    featureLevel=1) at version 0), ApiMessageAndVersion(FeatureLevelRecord(name='streams.version', \
    featureLevel=1) at version 0), ApiMessageAndVersion(FeatureLevelRecord(\
    name='transaction.version', featureLevel=2) at version 0)], metadataVersionLevel=30, \
    source=format command)";

/// What a run printed, with the scratch directory written as `DIR`, and its exit code.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    out: String,
    err: String,
    code: i32,
}

struct Scratch(TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a combined node's file; `DIR` in `more` stands for the scratch directory.
    fn file(&self, name: &str, more: &str) -> PathBuf {
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             listeners=PLAINTEXT://:9092,CONTROLLER://:9093\n\
             controller.listener.names=CONTROLLER\n{more}\n"
        );
        let path = self.path(name);
        fs::write(&path, text.replace("DIR", self.0.path().to_str().unwrap())).unwrap();
        path
    }

    fn fixed(&self) -> PathBuf {
        self.file("static", "controller.quorum.voters=1@localhost:9093\nlog.dirs=DIR/b,DIR/a")
    }

    fn dynamic(&self) -> PathBuf {
        let servers = "controller.quorum.bootstrap.servers=localhost:9093\nlog.dirs=DIR/d";
        self.file("dynamic", servers)
    }

    fn run(&self, args: &[&str]) -> Ran {
        let dir = self.0.path().to_str().unwrap();
        let args = args.iter().map(|a| a.replace("DIR", dir));
        let ran = Command::new(env!("CARGO_BIN_EXE_vltava"))
            .args(args)
            .current_dir(dir)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().replace(dir, "DIR");
        Ran { out: text(ran.stdout), err: text(ran.stderr), code: ran.status.code().unwrap() }
    }

    /// `storage` with `args`, which must print this, each part ended by a newline unless empty.
    fn expect(&self, args: &[&str], out: &str, err: &str, code: i32) {
        let words: Vec<_> = ["storage"].iter().chain(args).copied().collect();
        let line = |text: &str| if text.is_empty() { String::new() } else { format!("{text}\n") };
        let want = Ran { out: line(out), err: line(err), code };
        assert_eq!(self.run(&words), want, "{args:?}");
    }

    fn meta(&self, dir: &str) -> MetaProperties {
        let text = fs::read_to_string(self.path(dir).join(META_PROPERTIES)).unwrap();
        MetaProperties::parse(&text).unwrap()
    }
}

#[test]
fn a_static_quorum_is_formatted_shown_and_left_alone() {
    let s = Scratch::new();
    s.fixed();
    let absent = "Found problems:\n  DIR/a does not exist\n  DIR/b does not exist\n";
    s.expect(&["info", "-c", "static"], absent, "", 1);
    let formatted = format!(
        "{BOOTSTRAP}\nFormatting metadata directory DIR/b with metadata.version 4.3-IV0.\n\
         Formatting data directory DIR/a with metadata.version 4.3-IV0."
    );
    let ran = s.run(&["storage", "format", "-t", "abc", "-c", "static"]);
    assert_eq!((ran.err.as_str(), ran.code), ("", 0));
    let lines = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&ran.out), lines(&formatted));
    let meta = s.meta("a");
    let id = meta.directory_id.unwrap();
    assert_eq!(meta, MetaProperties::new("abc", NodeId(1), id));
    assert_ne!(s.meta("b").directory_id, Some(id));
    let shown = format!(
        "Found log directories:\n  DIR/a\n  DIR/b\n\nFound metadata: {{cluster.id=abc, \
         directory.id={id}, node.id=1, version=1}}\n"
    );
    s.expect(&["info", "-c", "static"], &shown, "", 0);
    let again = "Log directory DIR/a is already formatted. Use --ignore-formatted to ignore this \
                 directory and format the others.";
    s.expect(&["format", "-t", "abc", "-c", "static"], "", again, 1);
    let all = "All of the log directories are already formatted.";
    s.expect(&["format", "-t", "abc", "-c", "static", "-g"], all, "", 0);
    let other = "Invalid cluster.id in: DIR/a/meta.properties. Expected xyz, but read abc";
    s.expect(&["format", "-t", "xyz", "-c", "static", "-g"], "", other, 1);
    assert_eq!(s.meta("a").directory_id, Some(id), "nothing was written anew");
    let checkpoint = fs::read(s.path("a/bootstrap.checkpoint")).unwrap();
    assert_eq!(checkpoint.len(), 411, "as Kafka's");
    let features = BootstrapFile::decode(&checkpoint).unwrap().features;
    assert_eq!(features[0], ("metadata.version".to_owned(), 30));
    assert!(!s.path("a/__cluster_metadata-0").exists());
}

#[test]
fn one_more_directory_is_formatted_with_the_others_left_alone() {
    let s = Scratch::new();
    s.fixed();
    assert_eq!(s.run(&["storage", "format", "-t", "abc", "-c", "static"]).code, 0);
    let before = s.meta("a");
    let more = "controller.quorum.voters=1@localhost:9093\nlog.dirs=DIR/a,DIR/b,DIR/c";
    s.file("static", more);
    let start = s.run(&["server", "start", "static"]);
    assert_eq!(start.code, 1);
    assert_eq!(
        start.err,
        "DIR/c not formatted, while other directories are\nformat the rest: \
         bin/kafka-storage.sh format -t abc -c static -g\n"
    );
    let ran = s.run(&["storage", "format", "-t", "abc", "-c", "static", "-g"]);
    assert!(ran.out.ends_with("data directory DIR/c with metadata.version 4.3-IV0.\n"), "{ran:?}");
    assert_eq!(s.meta("a"), before);
}

#[test]
fn a_dynamic_quorum_begins_with_its_voters() {
    let s = Scratch::new();
    s.dynamic();
    let choose = "Because controller.quorum.voters is not set on this controller, you must specify \
                  one of the following: --standalone, --initial-controllers, or \
                  --no-initial-controllers.";
    s.expect(&["format", "-t", "abc", "-c", "dynamic"], "", choose, 1);
    let ran = s.run(&["storage", "format", "-t", "abc", "-c", "dynamic", "-s"]);
    assert!(ran.out.contains("Formatting dynamic metadata voter directory DIR/d with"), "{ran:?}");
    let path = s.path("d/__cluster_metadata-0/00000000000000000000-0000000000.checkpoint");
    let bytes = fs::read(path).unwrap();
    assert_eq!(bytes.len(), 241, "as Kafka's");
    let first = BootstrapFile::decode(&bytes).unwrap();
    assert_eq!(first.kraft_version, Some(1));
    let [voter] = &first.voters[..] else { panic!("one voter: {first:?}") };
    assert_eq!((voter.id, voter.host.as_str(), voter.port), (NodeId(1), "localhost", 9093));
    assert_eq!(s.meta("d").directory_id, Some(voter.directory));
}

#[test]
fn initial_controllers_and_learners_have_their_kinds() {
    let s = Scratch::new();
    s.dynamic();
    let id = "MvDxzVmcRsaTz33bUuRU6A";
    for (flags, kind) in [
        (vec!["-I", "2@[::1]:9:MvDxzVmcRsaTz33bUuRU6A"], "dynamic metadata directory"),
        (vec!["-I", "1@h:9:MvDxzVmcRsaTz33bUuRU6A"], "dynamic metadata voter directory"),
        (vec!["-N"], "metadata directory"),
    ] {
        let _ = fs::remove_dir_all(s.path("d"));
        let args = [vec!["storage", "format", "-t", "abc", "-c", "dynamic"], flags].concat();
        let ran = s.run(&args);
        assert!(ran.out.contains(&format!("Formatting {kind} DIR/d with")), "{ran:?}");
        let voter = kind.contains("voter");
        assert_eq!(s.meta("d").directory_id.unwrap().to_string() == id, voter, "{kind}");
        assert_eq!(s.path("d/__cluster_metadata-0").exists(), kind.starts_with("dynamic"));
    }
}

#[test]
fn wrong_wishes_are_refused_in_kafkas_words() {
    let s = Scratch::new();
    s.fixed();
    s.dynamic();
    for (file, flags, text) in [
        ("static", "-s", "You cannot specify controller.quorum.voters and format the node with"),
        ("static", "-r 9.9", "Unknown metadata.version '9.9'. Supported metadata.version are: 3.3"),
        ("static", "-f group.version=7", "No feature:group.version with feature level 7"),
        ("static", "-f kraft.version=1", "Cannot set kraft.version to 1 unless"),
        ("static", "-f metadata.version=20 -r 4.0", "Use --release-version instead of"),
        ("static", "-S SCRAM-SHA-256=[name=a,password=b]", "SCRAM is not built yet"),
        ("dynamic", "-s -f kraft.version=0", "Cannot set kraft.version to 0 if"),
        ("dynamic", "-I 1@h", "No colon following hostname could be found."),
        ("dynamic", "-s -N", "Usage:"),
        ("nosuch", "", "nosuch: No such file"),
    ] {
        let args = ["storage", "format", "-t", "abc", "-c", file];
        let args: Vec<_> = args.into_iter().chain(flags.split_whitespace()).collect();
        let ran = s.run(&args);
        assert_eq!((ran.out.as_str(), ran.code), ("", 1), "{flags}: {ran:?}");
        assert!(ran.err.contains(text), "{flags}: {ran:?}");
    }
    assert!(!s.path("a").exists() && !s.path("d").exists());
}

#[test]
fn usage_mistakes_give_one_and_help_gives_nought() {
    let s = Scratch::new();
    for args in ["", "nosuch", "format", "info", "format -c x", "feature-dependencies"] {
        let args: Vec<_> = ["storage"].into_iter().chain(args.split_whitespace()).collect();
        let ran = s.run(&args);
        assert_eq!((ran.out.as_str(), ran.code), ("", 1), "{args:?}: {ran:?}");
        assert!(ran.err.contains("Usage: kafka-storage"), "{args:?}: {ran:?}");
    }
    for args in [["storage", "--help"], ["server", "--version"]] {
        let ran = s.run(&args);
        assert_eq!(ran.code, i32::from(args[0] == "server"), "{ran:?}");
    }
}

#[test]
fn releases_and_features_are_explained() {
    let s = Scratch::new();
    let newest = "metadata.version=30 (4.3-IV0)\nkraft.version=1\ntransaction.version=2\n\
                  group.version=1\neligible.leader.replicas.version=1\nshare.version=1\n\
                  streams.version=1";
    s.expect(&["version-mapping"], newest, "", 0);
    let old = "metadata.version=25 (4.0.7)\nkraft.version=1\ntransaction.version=2\n\
               group.version=1\neligible.leader.replicas.version=0\nshare.version=0\n\
               streams.version=0";
    s.expect(&["version-mapping", "-r", "4.0.7"], old, "", 0);
    s.expect(
        &[
            "feature-dependencies",
            "-f",
            "group.version=1",
            "-f",
            "eligible.leader.replicas.version=1",
            "-f",
            "metadata.version=30",
        ],
        "group.version=1 has no dependencies.\neligible.leader.replicas.version=1 requires:\n    \
         metadata.version=23 (4.0-IV1)\nmetadata.version=30 (4.3-IV0) has no dependencies.",
        "",
        0,
    );
    for (feature, err) in [
        (
            "x",
            "Invalid feature format: x. Expected format: 'feature=version' (e.g. 'group.version=1')",
        ),
        ("group.version=a", "Invalid version format: a for feature group.version"),
        ("group.version=9", "Feature level 9 is not supported for feature group.version"),
        ("no.such=1", "Unknown feature: no.such"),
        ("metadata.version=99", "Unknown metadata.version 99"),
    ] {
        s.expect(&["feature-dependencies", "-f", feature], "", err, 1);
    }
    let uuid = s.run(&["storage", "random-uuid"]).out;
    assert_eq!(uuid.trim_end().len(), 22);
    assert!(uuid.trim_end().parse::<vltava::base::Uuid>().is_ok());
}

#[test]
fn directories_that_disagree_are_problems() {
    let s = Scratch::new();
    s.fixed();
    assert_eq!(s.run(&["storage", "format", "-t", "abc", "-c", "static"]).code, 0);
    let b = s.path("b").join(META_PROPERTIES);
    let good = fs::read_to_string(&b).unwrap();
    for (text, problem) in [
        (good.replace("abc", "def"), "Mismatched cluster IDs between storage directories."),
        (
            good.replace("node.id=1", "node.id=2"),
            "Mismatched node IDs between storage directories.",
        ),
        ("version=1\n".to_owned(), "Error loading DIR/b/meta.properties: Failed to find node.id"),
    ] {
        fs::write(&b, text).unwrap();
        let ran = s.run(&["storage", "info", "-c", "static"]);
        assert!(ran.out.ends_with(&format!("Found problem:\n  {problem}\n\n")), "{ran:?}");
        assert_eq!(ran.code, 1);
    }
}

#[test]
fn an_unformatted_node_does_not_start_and_says_what_would_help() {
    let s = Scratch::new();
    s.fixed();
    let ran = s.run(&["server", "start", "static"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.err,
        "No readable meta.properties files found: none of DIR/a, DIR/b is formatted\nformat first: \
         bin/kafka-storage.sh format -t $(bin/kafka-storage.sh random-uuid) -c static (a cluster of \
         several nodes: the same id on each)\n"
    );
}

#[test]
fn mistakes_in_a_file_are_told_together() {
    let s = Scratch::new();
    s.file("bad", "log.dirs=DIR/x\nnum.io.treads=8\nnum.partitions=none");
    let ran = s.run(&["server", "start", "bad", "--override", "acls=1"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.err,
        "bad:6: num.io.treads: no such configuration key; did you mean num.io.threads?\n\
         bad:7: num.partitions=none: Not a number of type INT\n\
         --override: acls: no such configuration key\n"
    );
    s.file(
        "tls",
        "listener.security.protocol.map=PLAINTEXT:SSL,CONTROLLER:PLAINTEXT\n\
                   controller.quorum.voters=1@localhost:9093\n\
                   inter.broker.listener.name=PLAINTEXT",
    );
    let ran = s.run(&["server", "start", "tls"]);
    assert!(ran.err.contains("listener PLAINTEXT has protocol SSL: TLS and SASL are not built"));
    assert_eq!(ran.code, 1);
}

#[test]
fn the_installed_names_run_the_commands_of_a_guide() {
    let s = Scratch::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let prefix = s.path("k");
    let installed = Command::new(root.join("scripts/install"))
        .arg("--prefix")
        .arg(&prefix)
        .env("VLTAVA_BINARY", env!("CARGO_BIN_EXE_vltava"))
        .status()
        .unwrap();
    assert!(installed.success());
    let shell = |line: &str| {
        let ran = Command::new("sh").args(["-ec", line]).current_dir(&prefix).output().unwrap();
        assert!(ran.status.success(), "{line}: {ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let dirs = s.path("data");
    let config = prefix.join("config/kraft/server.properties");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("/tmp/kraft-combined-logs", dirs.to_str().unwrap());
    fs::write(&config, text).unwrap();
    let out = shell(
        "KAFKA_CLUSTER_ID=$(bin/kafka-storage.sh random-uuid)\n\
         bin/kafka-storage.sh format -t $KAFKA_CLUSTER_ID -c config/kraft/server.properties\n\
         bin/kafka-storage.sh info -c config/kraft/server.properties\n\
         bin/kafka-server-start.sh --version",
    );
    assert!(out.contains("Found metadata: {cluster.id="), "{out}");
    assert!(out.contains("compatible with Apache Kafka 4.3.1"), "{out}");
    let shipped = "config/producer.properties config/consumer.properties config/server.properties \
                   config/kraft/broker.properties config/kraft/controller.properties";
    shell(&format!("test -L bin/kafka-server-stop.sh; ls {shipped}"));
}
