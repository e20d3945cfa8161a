//! Hand-made histories: each class of damage must be found, what Kafka may do must pass, and a good
//! run with one event dropped, doubled or swapped must fail.

use std::collections::BTreeSet;

use super::{Checker, HistoryError, Point, Verdict, admin_tests, excerpt, share_tests};

pub(super) fn judge<S: AsRef<str>>(lines: &[S]) -> Result<Verdict, HistoryError> {
    let mut checker = Checker::default();
    for line in lines {
        checker.line(line.as_ref())?;
    }
    checker.finish()
}

pub(super) fn points(lines: &[String]) -> BTreeSet<u8> {
    judge(lines).unwrap().counts.keys().map(|p| p.number()).collect()
}

pub(super) fn send(p: &str, n: u64, offset: i64) -> String {
    let (a, b) = (100 + n * 50, 105 + n * 50);
    format!(
        r#"{{"send":{{"p":"{p}","n":{n},"tp":["t",0],"v":"{p}/{n}","t":[{a},{b}],"ok":{offset}}}}}"#
    )
}

fn unknown(p: &str, n: u64) -> String {
    let times = r#""t":[100,200],"info":"timed out""#;
    format!(r#"{{"send":{{"p":"{p}","n":{n},"tp":["t",0],"v":"{p}/{n}",{times}}}}}"#)
}

pub(super) fn poll(c: &str, t: u64, records: &[(i64, &str)]) -> String {
    let end = t + 5;
    let r = records.iter().map(|(o, v)| format!("[{o},\"{v}\"]")).collect::<Vec<_>>().join(",");
    format!(r#"{{"poll":{{"c":"{c}","tp":["t",0],"t":[{t},{end}],"r":[{r}]}}}}"#)
}

pub(super) fn scan(s: &str, records: &[(i64, &str)]) -> String {
    let r = records.iter().map(|(o, v)| format!("[{o},\"{v}\"]")).collect::<Vec<_>>().join(",");
    format!(r#"{{"scan":{{"s":"{s}","tp":["t",0],"r":[{r}]}}}}"#)
}

pub(super) fn scanned(s: &str, start: i64, end: i64) -> String {
    format!(r#"{{"scanned":{{"s":"{s}","tp":["t",0],"start":{start},"end":{end}}}}}"#)
}

pub(super) fn ends(t: u64, start: i64, end: i64) -> String {
    let b = t + 5;
    format!(r#"{{"ends":{{"tp":["t",0],"t":[{t},{b}],"start":{start},"end":{end}}}}}"#)
}

fn leader(pe: i32, node: i32, epoch: i32, isr: &str) -> String {
    format!(
        r#"{{"leader":{{"tp":["t",0],"node":{node},"epoch":{epoch},"pe":{pe},"isr":[{isr}]}}}}"#
    )
}

fn segment(node: i32, end: i64, hash: &str) -> String {
    let what = format!(r#""start":0,"end":{end},"hash":"{hash}","epochs":[[4,0],[5,2]]"#);
    format!(r#"{{"segment":{{"quiet":1,"node":{node},"tp":["t",0],{what}}}}}"#)
}

/// A run of two producers through a change of leaders.
pub(super) fn good() -> Vec<String> {
    let values = [(0, "a/0"), (1, "b/0"), (2, "a/1"), (3, "b/1"), (4, "a/2")];
    vec![
        r#"{"run":{"id":"r","seed":7,"replay":"again"}}"#.into(),
        r#"{"topic":{"name":"t","replicas":3,"min_isr":2}}"#.into(),
        leader(0, 1, 4, "1,2,3"),
        send("a", 0, 0),
        send("b", 0, 1),
        r#"{"assign":{"c":"c","tp":["t",0],"offset":0}}"#.into(),
        poll("c", 130, &values[..2]),
        ends(140, 0, 2),
        r#"{"nemesis":{"what":"kill","on":[1],"t":141}}"#.into(),
        leader(1, 2, 5, "2,3"),
        send("a", 1, 2),
        send("b", 1, 3),
        send("a", 2, 4),
        poll("c", 160, &values[2..4]),
        poll("c", 210, &values[4..]),
        r#"{"nemesis":{"what":"heal","t":220}}"#.into(),
        r#"{"live":{"t":230,"ms":2}}"#.into(),
        ends(240, 0, 5),
        scan("1", &values[..3]),
        scan("1", &values[3..]),
        scanned("1", 0, 5),
        segment(1, 5, "x"),
        segment(2, 5, "x"),
        segment(3, 5, "x"),
        r#"{"term":{"term":3,"node":2}}"#.into(),
        r#"{"voters":{"at":1,"voters":["1","2","3"]}}"#.into(),
    ]
    .into_iter()
    .chain(transactions())
    .chain(admin_tests::good())
    .chain(share_tests::good())
    .collect()
}

/// A send to `x`, partition 0, with more fields.
fn to_x(p: &str, n: u64, offset: i64, more: &str) -> String {
    send(p, n, offset)
        .replace(r#"["t",0]"#, r#"["x",0]"#)
        .replace(r#""ok""#, &format!("{more},\"ok\""))
}

/// One transaction that was committed with a group's position, one that was aborted, one of which
/// nobody knows; a group with two members; a compacted topic.
fn transactions() -> Vec<String> {
    let x = |line: String| line.replace(r#"["t",0]"#, r#"["x",0]"#);
    let committed = |line: String| line.replace(r#","r":"#, r#","committed":true,"r":"#);
    let k = |line: String| line.replace(r#"["x",0]"#, r#"["k",0]"#);
    vec![
        r#"{"init":{"id":"tx","p":"w","t":[10,20]}}"#.into(),
        to_x("w", 0, 0, r#""txn":"w-1""#),
        to_x("w", 1, 1, r#""txn":"w-1""#),
        r#"{"txn":{"txn":"w-1","p":"w","t":[160,170],"end":"commit","offsets":[["g2",["t",0],3]]}}"#
            .into(),
        to_x("w", 2, 3, r#""txn":"w-2""#),
        r#"{"txn":{"txn":"w-2","p":"w","t":[210,220],"end":"abort"}}"#.into(),
        to_x("w", 3, 5, r#""txn":"w-3""#),
        to_x("w", 4, 6, r#""txn":"w-3""#),
        r#"{"txn":{"txn":"w-3","p":"w","t":[310,320],"end":"info"}}"#.into(),
        x(scan("all", &[(0, "w/0"), (1, "w/1"), (3, "w/2"), (5, "w/3"), (6, "w/4")])),
        x(scanned("all", 0, 8)),
        x(committed(scan("rc", &[(0, "w/0"), (1, "w/1")]))),
        x(scanned("rc", 0, 8)),
        r#"{"fetched":{"group":"g2","tp":["t",0],"t":[180,185],"offset":3}}"#.into(),
        r#"{"owns":{"group":"g2","m":"m1","epoch":4,"tp":["t",0]}}"#.into(),
        r#"{"owns":{"group":"g2","m":"m2","epoch":5,"tp":["t",0]}}"#.into(),
        r#"{"topic":{"name":"k","replicas":1,"min_isr":1,"compacted":true}}"#.into(),
        k(to_x("y", 0, 0, r#""k":"one""#)),
        k(to_x("y", 1, 1, r#""k":"two""#)),
        k(to_x("y", 2, 2, r#""k":"one""#)),
        k(to_x("y", 3, 3, r#""k":"gone","tombstone":true"#)),
        k(x(scan("1", &[(1, "y/1"), (2, "y/2")]))),
        k(x(scanned("1", 0, 4))),
    ]
}

/// `good` with the line that holds `old` changed.
pub(super) fn with(old: &str, new: &str) -> Vec<String> {
    let lines: Vec<_> = good().iter().map(|l| l.replacen(old, new, 1)).collect();
    assert_ne!(lines, good(), "{old}");
    lines
}

pub(super) fn and(more: &[String]) -> Vec<String> {
    [good(), more.to_vec()].concat()
}

#[test]
fn a_good_run_passes_and_every_point_was_looked_at() {
    let verdict = judge(&good()).unwrap();
    assert!(verdict.passed(), "{verdict}");
    assert_eq!(verdict.observed.len(), Point::ALL.len(), "{verdict}");
    assert!(verdict.to_string().ends_with("run r, seed 7, again with: again"), "{verdict}");
}

#[test]
fn what_kafka_may_do_passes() {
    // An unanswered send may be there or not; a batch of another producer may come in between.
    let there = [unknown("z", 0), unknown("z", 1), poll("d", 150, &[(1, "b/0"), (2, "a/1")])];
    assert!(judge(&and(&there)).unwrap().passed());
    // Offsets without records (control batches) are no gap.
    let mut gaps = good();
    for line in gaps.iter_mut().filter(|l| l.contains(r#"["t",0]"#)) {
        *line = line.replace("[4,\"a/2\"]", "[9,\"a/2\"]").replace(r#""ok":4"#, r#""ok":9"#);
        *line = line.replace(r#""end":5"#, r#""end":10"#);
    }
    assert!(judge(&gaps).unwrap().passed(), "{}", judge(&gaps).unwrap());
    // A group's consumer starts over where its group was after a rebalance.
    let again = [
        r#"{"assign":{"c":"c","tp":["t",0],"offset":null}}"#.to_owned(),
        poll("c", 195, &[(3, "b/1")]),
    ];
    assert!(judge(&and(&again)).unwrap().passed());
    // A leader that is cut off may be behind until it is healed, and its readers with it.
    let mut stale =
        with(r#""what":"kill","on":[1],"t":141"#, r#""what":"cut","t":141,"stale":true"#);
    stale.push(ends(165, 0, 2));
    assert!(judge(&stale).unwrap().passed());
    // A transaction of which nobody knows may be committed as a whole, with its positions.
    let mut whole = with(r#"[1,"w/1"]]}}"#, r#"[1,"w/1"],[5,"w/3"],[6,"w/4"]]}}"#);
    whole.push(committed_at(4, 230).replace(r#","t""#, r#","info":"timed out","t""#));
    whole.extend([fetched(240, 4), fetched(250, 3)]);
    assert!(judge(&whole).unwrap().passed(), "{}", judge(&whole).unwrap());
    // A reader of committed data is moved over what was aborted.
    let over = poll("o", 330, &[(0, "w/0"), (1, "w/1")]).replace(r#"["t",0]"#, r#"["x",0]"#);
    let over = over.replace(r#","r":"#, r#","committed":true,"r":"#);
    assert!(judge(&and(&[over])).unwrap().passed());
    // Voters go one at a time; an unclean leader is fine where it was allowed.
    assert!(judge(&and(&[r#"{"voters":{"at":9,"voters":["1","2"]}}"#.into()])).unwrap().passed());
    let mut unclean = with(r#""id":"r""#, r#""id":"r","unclean":true"#);
    unclean.push(leader(2, 1, 6, "1"));
    assert!(judge(&unclean).unwrap().passed());
    // The last known leader, when all stopped uncleanly.
    let nobody = leader(2, -1, 6, "").replace("]}}", r#"],"last":[1]}}"#);
    let known = and(&[nobody.clone(), leader(3, 1, 7, "1")]);
    assert!(judge(&known).unwrap().passed(), "{}", judge(&known).unwrap());
    assert!(!judge(&and(&[nobody, leader(3, 3, 7, "3")])).unwrap().passed());
}

#[test]
fn each_kind_of_damage_is_found() {
    let bad: &[(&str, u8, Vec<String>)] = &[
        ("lost at the end", 1, with(r#",[4,"a/2"]]}}"#, "]}}")),
        ("lost in the middle", 1, with(r#"[1,"b/0"],[2,"a/1"]]}}"#, r#"[2,"a/1"]]}}"#)),
        ("gone below the start", 1, and(&[scan("2", &[(4, "a/2")]), scanned("2", 4, 5)])),
        ("scan not finished", 1, and(&[scan("2", &[(0, "a/0")])])),
        ("never sent", 2, and(&[poll("d", 195, &[(7, "who?")])])),
        ("changed bytes", 2, and(&[poll("d", 195, &[(7, "a/0~")])])),
        ("sent elsewhere", 2, with(r#""tp":["t",0],"v":"a/2""#, r#""tp":["u",0],"v":"a/2""#)),
        ("failed and there", 3, with(r#"[200,205],"ok":4"#, r#"[200,205],"fail":"x""#)),
        ("two values", 4, and(&[poll("d", 195, &[(1, "a/0")])])),
        ("twice", 5, and(&[poll("d", 195, &[(5, "a/2")])])),
        ("elsewhere than told", 5, with(r#""ok":4"#, r#""ok":6"#)),
        ("out of order", 6, and(&[unknown("a", 9), poll("d", 9, &[(5, "a/9")]), send("a", 8, 6)])),
        ("skipped", 7, with(r#""r":[[2,"a/1"],[3,"b/1"]]"#, r#""r":[[3,"b/1"]]"#)),
        ("went back", 7, and(&[poll("c", 195, &[(2, "a/1")])])),
        ("committed over", 7, and(&group())),
        ("behind an ack", 8, and(&[ends(245, 0, 4)])),
        ("start went back", 8, and(&[ends(245, 3, 5), ends(255, 2, 5)])),
        ("start after end", 8, and(&[ends(245, 8, 6)])),
        ("marks", 8, and(&[marks(3, 5, 4)])),
        ("marks went back", 8, and(&[marks(2, 4, 5), marks(2, 3, 5)])),
        ("two leaders", 15, and(&[leader(3, 1, 5, "1")])),
        ("two states", 15, and(&[leader(1, 2, 5, "2")])),
        ("two in a term", 15, and(&[r#"{"term":{"term":3,"node":1}}"#.into()])),
        ("two voters", 15, and(&[r#"{"voters":{"at":2,"voters":["1"]}}"#.into()])),
        ("acked alone", 16, with(r#""isr":[2,3]"#, r#""isr":[2]"#)),
        ("not in sync", 16, and(&[leader(2, 1, 6, "1")])),
        ("epoch went back", 16, and(&[leader(2, 2, 4, "2,3")])),
        (
            "bytes differ",
            17,
            with(
                r#""node":3,"tp":["t",0],"start":0,"end":5,"hash":"x""#,
                r#""node":3,"tp":["t",0],"start":0,"end":5,"hash":"y""#,
            ),
        ),
        (
            "shorter",
            17,
            with(
                r#""node":3,"tp":["t",0],"start":0,"end":5"#,
                r#""node":3,"tp":["t",0],"start":0,"end":4"#,
            ),
        ),
        (
            "one missing",
            17,
            good().into_iter().filter(|l| !l.contains(r#""node":3,"tp""#)).collect(),
        ),
        ("torn", 9, with(r#"[[0,"w/0"],[1,"w/1"]]}}"#, r#"[[0,"w/0"]]}}"#)),
        ("aborted read", 9, with(r#"[1,"w/1"]]}}"#, r#"[1,"w/1"],[3,"w/2"]]}}"#)),
        ("torn unknown", 9, with(r#"[1,"w/1"]]}}"#, r#"[1,"w/1"],[5,"w/3"]]}}"#)),
        (
            "never asked",
            9,
            good().into_iter().filter(|l| !l.contains("\"txn\":{\"txn\":\"w-1")).collect(),
        ),
        ("before its commit", 9, and(&[early()])),
        ("fenced", 9, and(&[r#"{"init":{"id":"tx","p":"z","t":[100,150]}}"#.into()])),
        (
            "two owners",
            10,
            and(&[r#"{"owns":{"group":"g2","m":"m2","epoch":4,"tp":["t",0]}}"#.into()]),
        ),
        ("position went back", 10, and(&[fetched(190, -1)])),
        ("nobody's position", 10, and(&[fetched(190, 4)])),
        ("commit went back", 10, and(&[committed_at(5, 195), fetched(200, 3)])),
        ("last of a key", 12, with(r#"[[1,"y/1"],[2,"y/2"]]"#, r#"[[2,"y/2"]]"#)),
        ("late", 18, with(r#""ms":2"#, r#""ms":12000"#)),
        ("never", 18, with(r#""ms":2"#, r#""ms":2,"left":["t-0"]"#)),
        ("nobody looked", 18, good().into_iter().filter(|l| !l.contains("live")).collect()),
        ("ended", 18, and(&[r#"{"fatal":{"p":"a","error":"gap"}}"#.into()])),
    ];
    let bad: Vec<_> =
        bad.iter().cloned().chain(admin_tests::bad()).chain(share_tests::bad()).collect();
    for (what, point, lines) in &bad {
        let found = points(lines);
        assert!(found.contains(point), "{what}: {point} is not in {found:?}");
    }
    let found: BTreeSet<_> = bad.iter().map(|b| b.1).collect();
    assert_eq!(found.len(), Point::ALL.len());
}

/// A reader of committed data that was given a record too soon.
fn early() -> String {
    let polled = poll("e", 140, &[(0, "w/0")]).replace(r#","r":"#, r#","committed":true,"r":"#);
    polled.replace(r#"["t",0]"#, r#"["x",0]"#)
}

fn fetched(t: u64, offset: i64) -> String {
    let end = t + 5;
    format!(r#"{{"fetched":{{"group":"g2","tp":["t",0],"t":[{t},{end}],"offset":{offset}}}}}"#)
}

fn committed_at(offset: i64, t: u64) -> String {
    let begin = t - 5;
    format!(r#"{{"commit":{{"group":"g2","tp":["t",0],"offset":{offset},"t":[{begin},{t}]}}}}"#)
}

/// A group that committed past what its members were given.
fn group() -> Vec<String> {
    let polled = poll("m", 150, &[(0, "a/0"), (1, "b/0"), (3, "b/1")]);
    let polled = polled.replace(r#""c":"m""#, r#""c":"m","group":"g""#);
    vec![
        polled.replace(r#",[3,"b/1"]"#, ""),
        r#"{"commit":{"group":"g","tp":["t",0],"offset":3}}"#.into(),
    ]
}

fn marks(lso: i64, hw: i64, leo: i64) -> String {
    let at = format!(r#""start":0,"lso":{lso},"hw":{hw},"leo":{leo}"#);
    format!(r#"{{"marks":{{"node":2,"tp":["t",0],"epoch":5,{at}}}}}"#)
}

#[test]
fn a_good_run_with_one_event_changed_fails() {
    let lines = good();
    let fails = |lines: &[String]| judge(lines).map_or(true, |v| !v.passed());
    let carries =
        |l: &String, kinds: &[&str]| kinds.iter().any(|k| l.starts_with(&format!("{{\"{k}\"")));
    for (at, line) in lines.iter().enumerate() {
        let mut dropped = lines.clone();
        dropped.remove(at);
        // Nobody has to see the records of a key but its last, nor what was deleted.
        let unseen = ["y/0", "y/3", "h/0", "h/1", "d/0", "d/1"];
        let superseded = unseen.iter().any(|v| line.contains(&format!("\"{v}\"")));
        if carries(line, &["send", "scan", "scanned", "segment", "live"]) && !superseded {
            assert!(fails(&dropped), "dropped {line}");
        }
        let mut doubled = lines.clone();
        doubled.insert(at, line.clone());
        if carries(line, &["send", "poll", "scan", "segment"]) {
            assert!(fails(&doubled), "doubled {line}");
        }
    }
    let polls: Vec<_> =
        lines.iter().enumerate().filter(|l| carries(l.1, &["poll"])).map(|l| l.0).collect();
    for pair in polls.windows(2) {
        let mut swapped = lines.clone();
        swapped.swap(pair[0], pair[1]);
        assert!(fails(&swapped), "swapped {pair:?}");
        let mut dropped = lines.clone();
        dropped.remove(pair[0]);
        assert!(fails(&dropped), "dropped poll {pair:?}");
    }
    // The values of two sends exchanged.
    let exchanged: Vec<_> = lines
        .iter()
        .map(|l| l.replace(r#""v":"a/1""#, r#""v":"?""#).replace(r#""v":"a/0""#, r#""v":"a/1""#))
        .map(|l| l.replace(r#""v":"?""#, r#""v":"a/0""#))
        .collect();
    assert!(fails(&exchanged));
}

#[test]
fn the_window_holds_what_shows_it_and_no_more() {
    let lines = and(&[poll("d", 195, &[(0, "a/0"), (1, "b/0"), (2, "b/1"), (3, "b/1")])]);
    let verdict = judge(&lines).unwrap();
    let first = &verdict.violations[0];
    assert_eq!(first.point, Point::Inconsistent, "{verdict}");
    assert_eq!(first.window.offsets, Some((2, 2)));
    let shown: Vec<_> = lines.iter().filter_map(|l| excerpt(&first.window, l)).collect();
    assert!(shown.iter().any(|l| l.contains("poll by d") && l.contains("2: b/1")), "{shown:?}");
    assert!(shown.iter().any(|l| l.contains(r#""v":"a/1""#)), "{shown:?}");
    assert!(!shown.iter().any(|l| l.contains(r#""v":"a/0""#)), "{shown:?}");
}

#[test]
fn what_is_no_history_is_refused() {
    for (line, why) in [
        ("{}", "not an event"),
        (r#"{"run":{"speed":1}}"#, "unknown field"),
        (r#"{"ends":{"tp":["t",0],"t":[9,3],"start":0,"end":0}}"#, "completed no sooner"),
        (r#"{"topic":{"name":"t","replicas":1,"min_isr":2}}"#, "from 1 to the number"),
    ] {
        let error = judge(&[line]).unwrap_err().to_string();
        assert!(error.contains(why), "{line}: {error}");
    }
    let negative = send("a", 0, -5);
    assert!(judge(&[negative]).is_err());
    assert!(matches!(
        judge(&[send("a", 0, 0), send("a", 0, 1)]),
        Err(HistoryError::SentTwice { n: 0, .. })
    ));
}
