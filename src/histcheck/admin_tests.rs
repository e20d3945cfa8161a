//! Hand-made histories of topics, settings, log starts and compaction, both ways.

use super::tests::{and, ends, good as whole, judge, points, poll, scan, scanned, send, with};

/// A line about partition 0 of `topic` instead of that of `t`.
fn on(topic: &str, line: &str) -> String {
    line.replace(r#"["t",0]"#, &format!(r#"["{topic}",0]"#))
}

fn keyed(n: u64, offset: i64, more: &str) -> String {
    on("h", &send("h", n, offset)).replace(r#""ok""#, &format!("{more},\"ok\""))
}

fn delete(before: i64, t: (u64, u64), outcome: &str) -> String {
    let (a, b) = t;
    format!(r#"{{"delete_records":{{"tp":["d",0],"before":{before},"t":[{a},{b}]{outcome}}}}}"#)
}

fn meta(key: &str, op: &str, v: Option<&str>, t: u64, more: &str) -> String {
    let v = v.map_or(String::new(), |v| format!(r#","v":"{v}""#));
    // After the faults of the run.
    let (t, end) = (t + 10_000, t + 10_005);
    format!(r#"{{"meta":{{"key":"{key}","op":"{op}"{v},"t":[{t},{end}]{more}}}}}"#)
}

fn read(key: &str, v: Option<&str>, t: u64, via: &str) -> String {
    meta(key, "read", v, t, &format!(r#","via":"{via}""#))
}

/// Records before 2 are deleted; a deletion is compacted away in its time; two topics and a setting.
pub(super) fn good() -> Vec<String> {
    let d: Vec<_> = (0_i64..6).map(|n| on("d", &send("d", n.cast_unsigned(), n))).collect();
    let settings = r#""compacted":true,"delete_retention_ms":1"#;
    let rest = [(2, "d/2"), (3, "d/3"), (4, "d/4"), (5, "d/5")];
    d.into_iter()
        .chain([
            delete(2, (1000, 1100), r#","ok":2"#),
            on("d", &ends(900, 0, 6)),
            on("d", &ends(1200, 2, 6)),
            on("d", &scan("1", &rest)),
            timed(&on("d", &scanned("1", 2, 6)), 1300, 1400),
            format!(r#"{{"topic":{{"name":"h","replicas":1,"min_isr":1,{settings}}}}}"#),
            keyed(0, 0, r#""k":"gone""#),
            keyed(1, 1, r#""k":"gone","tombstone":true"#),
            keyed(2, 2, r#""k":"stays""#),
            on("h", &scan("1", &[(2, "h/2")])),
            timed(&on("h", &scanned("1", 0, 3)), 5000, 5100),
            meta("topic/a", "create", Some("id-1"), 100, ""),
            read("topic/a", Some("id-1"), 110, "1"),
            meta("topic/a", "delete", None, 120, ""),
            read("topic/a", None, 130, "2"),
            meta("topic/a", "create", Some("id-2"), 140, ""),
            read("topic/a", Some("id-2"), 150, "1"),
            meta("config/a", "set", Some("5"), 150, ""),
            read("config/a", Some("5"), 160, "2"),
            meta("config/a", "unset", None, 170, ""),
            read("config/a", None, 180, "1"),
        ])
        .collect()
}

fn timed(line: &str, from: u64, to: u64) -> String {
    line.replace("}}", &format!(r#","t":[{from},{to}]}}}}"#))
}

pub(super) fn bad() -> Vec<(&'static str, u8, Vec<String>)> {
    let cut = r#""before":2,"t":[1000,1100],"ok":2"#;
    vec![
        ("nobody asked", 13, whole().into_iter().filter(|l| !l.contains(cut)).collect()),
        ("more than was asked", 13, with(r#""start":2,"end":6,"t""#, r#""start":3,"end":6,"t""#)),
        (
            "gone before it was asked",
            13,
            with(r#""before":2,"t":[1000"#, r#""before":2,"t":[1090"#)
                .iter()
                .map(|l| l.replace("[900,905],\"start\":0", "[900,905],\"start\":1"))
                .collect(),
        ),
        ("refused, and gone", 13, with(cut, r#""before":2,"t":[1000,1100],"fail":"x""#)),
        ("starts where it did", 13, and(&[on("d", &ends(1210, 0, 6))])),
        ("scanned from before", 13, with(r#""start":2,"end":6,"t""#, r#""start":1,"end":6,"t""#)),
        ("served late", 13, and(&[direct(1150, &[(1, "d/1"), (2, "d/2")])])),
        ("kept too short", 13, aged(2)),
        ("deletion went early", 12, with(r#""t":[5000,5100]"#, r#""t":[1000,1100]"#)),
        ("outlived its deletion", 12, with(r#"[[2,"h/2"]]"#, r#"[[0,"h/0"],[2,"h/2"]]"#)),
        ("last of a key is gone", 12, with(r#"[[2,"h/2"]]"#, "[]")),
        ("never made", 14, and(&[read("topic/b", Some("id-9"), 200, "1")])),
        ("still not there", 14, and(&[read("topic/a", None, 200, "1")])),
        ("made twice", 14, and(&[meta("topic/a", "create", Some("id-3"), 200, "")])),
        ("deleted twice", 14, and(&[200, 210].map(|t| meta("topic/a", "delete", None, t, "")))),
        ("old id came back", 14, and(&[read("topic/a", Some("id-1"), 200, "1")])),
        (
            "refused, and done",
            14,
            with(r#""v":"5","t":[10150,10155]"#, r#""v":"5","t":[10150,10155],"fail":"x""#),
        ),
        ("an older value", 14, and(&[read("config/a", Some("5"), 200, "1")])),
        ("id of another topic", 14, and(&[meta("topic/b", "create", Some("id-1"), 50, "")])),
        (
            "an id again",
            14,
            and(&[
                meta("topic/a", "delete", None, 200, ""),
                meta("topic/a", "create", Some("id-2"), 210, ""),
            ]),
        ),
    ]
}

fn direct(t: u64, records: &[(i64, &str)]) -> String {
    on("d", &poll("late", t, records)).replace(r#","r":"#, r#","direct":true,"r":"#)
}

/// The good run with retention by time instead of DeleteRecords.
fn aged(ms: u64) -> Vec<String> {
    let named =
        format!(r#"{{"topic":{{"name":"d","replicas":1,"min_isr":1,"retention_ms":{ms}}}}}"#);
    let mut lines = vec![named];
    lines.extend(whole().into_iter().filter(|l| !l.contains("delete_records")));
    lines
}

fn pass(what: &str, lines: &[String]) {
    let verdict = judge(lines).unwrap();
    assert!(verdict.passed(), "{what}: {verdict}");
}

#[test]
fn what_may_go_may_go_and_need_not() {
    // Old enough: the youngest that went was handed over at 150, and seen to be gone at 1205.
    pass("by age", &aged(1));
    // Nobody knows whether it was done, so the start may be there or here, and go back.
    let open = with(r#","ok":2}}"#, r#","info":"timed out"}}"#);
    let back = [open.clone(), vec![on("d", &ends(1210, 0, 6)), on("d", &ends(1220, 1, 6))]];
    pass("not known", &back.concat());
    // A read that was asked for before the answer, and what a client had fetched before.
    pass("before", &and(&[direct(1090, &[(1, "d/1")])]));
    let held = direct(1150, &[(1, "d/1")]).replace(r#""direct":true,"#, "");
    pass("held back", &and(&[held]));
    // All: up to the high watermark, which is answered.
    pass("all", &with(r#""before":2"#, r#""before":-1"#));
    // A leader that is cut off.
    let fault = |what: &str, t: u64, more: &str| {
        format!(r#"{{"nemesis":{{"what":"{what}","t":{t}{more}}}}}"#)
    };
    let live = r#"{"live":{"t":1260,"ms":1}}"#.to_owned();
    for more in [r#","stale":true"#, r#","forgets":true"#] {
        let faults = [fault("all", 1150, more), fault("heal", 1250, ""), live.clone()];
        let old = [on("d", &ends(1210, 0, 6)), direct(1220, &[(0, "d/0")])];
        pass(more, &and(&[faults.to_vec(), old.to_vec()].concat()));
        assert!(points(&and(&old)).contains(&13));
    }
    // Consumers step over what is gone.
    let begin = on("d", r#"{"assign":{"c":"x","tp":["t",0],"offset":0}}"#);
    pass("stepped over", &and(&[begin, on("d", &poll("x", 1300, &[(2, "d/2"), (3, "d/3")]))]));
    // By size, where the run says so.
    let mut sized = with(r#""id":"r""#, r#""id":"r","retention":true"#);
    sized.retain(|l| !l.contains("delete_records"));
    pass("by size", &sized);
}

#[test]
fn deletions_may_stay_or_go_in_their_time() {
    pass("stays", &with(r#"[[2,"h/2"]]"#, r#"[[0,"h/0"],[1,"h/1"],[2,"h/2"]]"#));
    pass("stays alone", &with(r#"[[2,"h/2"]]"#, r#"[[1,"h/1"],[2,"h/2"]]"#));
    // A scan that takes longer than deletions stay may see neither order of things.
    let mut slow = with(r#"[[2,"h/2"]]"#, r#"[[0,"h/0"],[2,"h/2"]]"#);
    slow.iter_mut().for_each(|l| *l = l.replace("[5000,5100]", "[4000,5100]"));
    pass("slow", &slow);
}

#[test]
fn brokers_may_be_behind_as_far_as_the_run_says() {
    let lag = |lines: &[String]| {
        let mut all = with(r#""id":"r""#, r#""id":"r","lag_ms":1"#);
        all.extend(lines.to_vec());
        all
    };
    let old = read("config/a", Some("5"), 200, "2");
    pass("behind", &lag(std::slice::from_ref(&old)));
    // One broker does not go back, and none is behind for longer.
    let back = [read("config/a", None, 190, "2"), old];
    assert!(points(&lag(&back)).contains(&14));
    assert!(points(&lag(&[read("config/a", Some("5"), 1200, "2")])).contains(&14));
    // While it is cut off it may be.
    let cut = [
        r#"{"nemesis":{"what":"kill","t":10165}}"#.to_owned(),
        read("config/a", Some("5"), 900, "2"),
        r#"{"nemesis":{"what":"heal","t":11000}}"#.to_owned(),
        r#"{"live":{"t":11010,"ms":1}}"#.to_owned(),
    ];
    pass("cut off", &and(&cut));
}

#[test]
fn what_nobody_knows_may_be_done_late_or_never() {
    let open = meta("config/b", "set", Some("7"), 300, r#","info":"timed out""#);
    let old = read("config/b", None, 310, "1");
    let new = read("config/b", Some("7"), 320, "1");
    pass("late", &and(&[open.clone(), old.clone(), new.clone()]));
    pass("never", &and(&[open.clone(), old.clone()]));
    let back = read("config/b", None, 330, "1");
    assert!(points(&and(&[open, old, new, back])).contains(&14), "and not be taken back");
    // A topic whose creation was not answered has some id, and one only.
    let made = meta("topic/c", "create", None, 300, r#","info":"timed out""#);
    let there = read("topic/c", Some("id-c"), 310, "1");
    let other = read("topic/c", Some("id-d"), 320, "1");
    pass("made", &and(&[made.clone(), there.clone()]));
    assert!(points(&and(&[made.clone(), there.clone(), other])).contains(&14));
    // Its second attempt is told that the topic is there, or is gone.
    let again = meta("topic/c", "create", None, 300, r#","already":true"#);
    pass("already", &and(&[again, there.clone()]));
    let gone = meta("topic/c", "delete", None, 320, r#","already":true"#);
    pass(
        "gone already",
        &and(&[made, there.clone(), gone.clone(), read("topic/c", None, 330, "1")]),
    );
    let still = read("topic/c", Some("id-c"), 340, "1");
    let made = meta("topic/c", "create", Some("id-c"), 300, "");
    assert!(points(&and(&[made, there, gone, still])).contains(&14));
}

#[test]
fn a_good_run_with_one_change_of_the_metadata_gone_fails() {
    let lines = whole();
    for (at, line) in lines.iter().enumerate() {
        let change = line.contains(r#"{"meta""#) && !line.contains(r#""op":"read""#);
        if change {
            let mut dropped = lines.clone();
            dropped.remove(at);
            assert!(!judge(&dropped).unwrap().passed(), "dropped {line}");
        }
    }
}
