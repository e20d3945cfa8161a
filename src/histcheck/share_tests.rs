//! Hand-made histories of share groups, both ways.

use super::tests::{and, good as whole, judge, points, scan, scanned, send, with};

/// Long after the last heal of the run, in microseconds.
const CALM: u64 = 20_000_000;

fn s(line: &str) -> String {
    line.replace(r#"["t",0]"#, r#"["s",0]"#)
}

fn given(m: &str, t: (u64, u64), (first, last): (i64, i64), n: u32) -> String {
    let (a, b) = (CALM + t.0, CALM + t.1);
    let what = format!(r#""first":{first},"last":{last},"n":{n},"lock_ms":1000"#);
    format!(r#"{{"acquired":{{"group":"sg","m":"{m}","tp":["s",0],"t":[{a},{b}],{what}}}}}"#)
}

fn said(m: &str, t: (u64, u64), (first, last): (i64, i64), kind: &str) -> String {
    let (a, b) = (CALM + t.0, CALM + t.1);
    let what = format!(r#""first":{first},"last":{last},"kind":"{kind}""#);
    format!(r#"{{"acked":{{"group":"sg","m":"{m}","tp":["s",0],"t":[{a},{b}],{what}}}}}"#)
}

fn left(m: &str, t: u64) -> String {
    format!(r#"{{"left":{{"group":"sg","m":"{m}","t":{}}}}}"#, CALM + t)
}

fn unheard(m: &str, t: u64) -> String {
    let (a, b) = (CALM + t, CALM + t + 5);
    format!(r#"{{"unheard":{{"group":"sg","m":"{m}","tp":["s",0],"t":[{a},{b}]}}}}"#)
}

fn fault(what: &str, t: u64, more: &str) -> String {
    format!(r#"{{"nemesis":{{"what":"{what}","t":{}{more}}}}}"#, CALM + t)
}

/// Two members, one record that is given back, one that is turned away.
pub(super) fn good() -> Vec<String> {
    let sends = (0_i64..6).map(|n| s(&send("q", n.cast_unsigned(), n)));
    let all: Vec<_> = (0..6).map(|n| (n, format!("q/{n}"))).collect();
    let all: Vec<_> = all.iter().map(|(n, v)| (*n, v.as_str())).collect();
    sends
        .chain([
            s(&scan("1", &all)),
            s(&scanned("1", 0, 6)),
            r#"{"share":{"group":"sg","limit":3}}"#.into(),
            given("m1", (300, 310), (0, 2), 1),
            said("m1", (320, 330), (0, 1), "accept"),
            said("m1", (340, 350), (2, 2), "release"),
            given("m2", (342, 360), (2, 2), 2),
            given("m2", (342, 360), (3, 5), 1),
            said("m2", (370, 380), (2, 2), "reject"),
            said("m2", (390, 400), (3, 5), "accept"),
            r#"{"drained":{"group":"sg","tp":["s",0],"from":0,"to":6}}"#.into(),
        ])
        .collect()
}

pub(super) fn bad() -> Vec<(&'static str, u8, Vec<String>)> {
    let late = (500, 510);
    vec![
        ("handed out after accept", 11, and(&[given("m2", late, (1, 1), 2)])),
        ("handed out after reject", 11, and(&[given("m1", late, (2, 2), 3)])),
        ("handed out to its own", 11, and(&[given("m1", late, (0, 0), 2)])),
        ("two had it", 11, and(&[given("m3", (311, 312), (1, 1), 1)])),
        ("two had it at an accept", 11, and(&[given("m3", (312, 325), (0, 0), 2)])),
        (
            "two had it before a release",
            11,
            and(&[given("m3", (312, 325), (2, 2), 2).replace(r#","lock_ms":1000"#, "")]),
        ),
        ("lock went on", 11, and(&[left("m3", 9), given("m3", (361, 365), (4, 5), 2)])),
        ("never had it", 11, and(&[said("m4", (365, 368), (5, 5), "release")])),
        ("twice in an answer", 11, and(&[given("m2", (342, 360), (5, 5), 2)])),
        ("too often", 11, and(&[given("m3", (200, 210), (0, 0), 4)])),
        (
            "counts that nobody made",
            11,
            with(r#""first":2,"last":2,"n":2"#, r#""first":2,"last":2,"n":3"#),
        ),
        ("not counted", 11, with(r#""first":2,"last":2,"n":2"#, r#""first":2,"last":2,"n":1"#)),
        ("not done with", 11, without("reject")),
        ("handed out to nobody", 11, without(r#""first":3,"last":5"#)),
    ]
}

fn without(what: &str) -> Vec<String> {
    whole().into_iter().filter(|l| !l.contains(what)).collect()
}

/// Whether the good run with these lines passes.
fn pass(what: &str, lines: &[String]) {
    let verdict = judge(&and(lines)).unwrap();
    assert!(verdict.passed(), "{what}: {verdict}");
}

/// More of the topic than the good run has, as a tail that it does not speak of.
fn tail(lines: &[String]) -> Vec<String> {
    lines.iter().map(|l| l.replace(r#""sg""#, r#""sh""#)).collect()
}

#[test]
fn what_share_groups_may_do_passes() {
    let first = given("m1", (0, 5), (0, 3), 1);
    // A lock ends by its time: the next has it, and what the first says does not count.
    let over = CALM + 1_000_006;
    let late = given("m2", (1_000_001, 1_000_005), (0, 3), 2);
    let refused = said("m1", (1_000_006, 1_000_009), (0, 3), "accept")
        .replace(r#""kind":"#, r#""fail":"INVALID_RECORD_STATE","kind":"#);
    assert!(refused.contains(&over.to_string()));
    pass("lock ended", &tail(&[first.clone(), late, refused]));
    // Once the next is done with it, the group's start passes it, and what the first says counts as
    // for all that lies before the start.
    let late = given("m2", (1_000_001, 1_000_005), (0, 3), 2);
    let done = said("m2", (1_000_010, 1_000_020), (0, 3), "accept");
    let vain = said("m1", (1_000_030, 1_000_040), (0, 3), "release");
    pass("before the start", &tail(&[first.clone(), late.clone(), done, vain.clone()]));
    assert!(points(&and(&tail(&[first.clone(), late, vain]))).contains(&11));
    // A member that left, a connection that was lost.
    let next = given("m2", (20, 30), (0, 3), 2);
    pass("left", &tail(&[first.clone(), left("m1", 10), next.clone()]));
    // An acknowledgement of which nobody knows may have given it back.
    let open = said("m1", (10, 15), (0, 3), "release").replace(r#""kind""#, r#""info":"x","kind""#);
    pass("not known", &tail(&[first.clone(), open, next.clone()]));
    // The leader was killed: what was not acknowledged counts anew.
    let anew = given("m2", (20, 30), (0, 3), 1);
    let killed = [fault("kill", 10, ""), fault("heal", 40, ""), live()];
    pass("killed", &[tail(&[first.clone(), anew]), killed.to_vec()].concat());
    // A leader that does not know that it is deposed hands out what another knows to be done.
    let accepted = said("m1", (10, 15), (0, 3), "accept");
    let stale = [fault("cut", 12, r#","stale":true"#), fault("heal", 40, ""), live()];
    let lines = [tail(&[first.clone(), accepted, next.clone()]), stale.to_vec()].concat();
    pass("stale", &lines);
    assert!(points(&and(&lines[..3])).contains(&11), "without the fault it is wrong");
    // Deliveries that nobody heard of are counted.
    let third = given("m2", (1_000_101, 1_000_105), (0, 3), 3);
    pass("unheard", &tail(&[first.clone(), unheard("m3", 9), third.clone()]));
    assert!(points(&and(&tail(&[first.clone(), third]))).contains(&11));
    // At its limit a record is done with, and so it may be if answers were lost.
    let drained = r#"{"drained":{"group":"sh","tp":["s",0],"from":0,"to":4}}"#.to_owned();
    let limit = r#"{"share":{"group":"sh","limit":2}}"#.to_owned();
    let again = [first, left("m1", 10), next, limit, drained.clone()];
    pass("limit", &[tail(&again[..4]), vec![drained.clone()]].concat());
    let lost = [limit_of_one(), unheard("m1", 3), drained];
    pass("lost answers", &tail(&lost));
}

fn limit_of_one() -> String {
    r#"{"share":{"group":"sh","limit":1}}"#.to_owned()
}

fn live() -> String {
    format!(r#"{{"live":{{"t":{},"ms":1}}}}"#, CALM + 50)
}

#[test]
fn a_lock_that_was_renewed_goes_on_for_certain_only_as_it_began() {
    let first = given("m1", (0, 5), (0, 3), 1);
    let renewed = said("m1", (10, 20), (0, 3), "renew");
    let within = given("m2", (30, 40), (0, 3), 2);
    let lines = tail(&[first.clone(), renewed.clone(), within]);
    assert!(points(&and(&lines)).contains(&11));
    let after = given("m2", (1_000_001, 1_000_005), (0, 3), 2);
    pass("by a leader that is deposed", &tail(&[first, renewed, after]));
}

#[test]
fn a_good_run_with_one_delivery_changed_fails() {
    let lines = whole();
    let mut tried = 0;
    for (at, line) in lines.iter().enumerate() {
        let (acked, got) = (line.starts_with("{\"acked\""), line.starts_with("{\"acquired\""));
        if !acked && !got {
            continue;
        }
        tried += 1;
        let mut dropped = lines.clone();
        dropped.remove(at);
        // That it was given back is also to be seen from the next delivery, but for its lock.
        assert!(!judge(&dropped).unwrap().passed(), "dropped {line}");
        if got {
            let mut doubled = lines.clone();
            doubled.insert(at, line.clone());
            assert!(!judge(&doubled).unwrap().passed(), "doubled {line}");
        }
    }
    assert!(tried > 5);
}
