//! The smallest failing window: of all lines, those that show one violation.

use super::{Window, checker::fingerprint, event::Event, event::Read, event::Tp};

/// What `line` says about `window`, shortened to it; `None` when it says nothing.
#[must_use]
pub fn excerpt(window: &Window, line: &str) -> Option<String> {
    // A line that is no event was refused before.
    let event = serde_json::from_str(line).ok()?;
    match &event {
        Event::Send(s) => {
            let offset = s.ok.is_some_and(|o| at(window, &s.tp, o));
            (offset || window.values.contains(&fingerprint(&s.v))).then(|| line.to_owned())
        }
        Event::Poll(p) => {
            let head = format!("poll by {} of {:?} at {:?}", p.c, p.tp, p.t);
            records(window, &p.tp, &p.r, &head)
        }
        Event::Scan(s) => records(window, &s.tp, &s.r, &format!("scan {} of {:?}", s.s, s.tp)),
        Event::Assign(a) => of(window, &a.tp, line),
        Event::Scanned(s) => of(window, &s.tp, line),
        Event::Leader(l) => of(window, &l.tp, line),
        Event::Marks(m) => of(window, &m.tp, line),
        Event::Segment(s) => of(window, &s.tp, line),
        Event::Commit(c) => of(window, &c.tp, line),
        Event::Fetched(f) => of(window, &f.tp, line),
        Event::Owns(o) => of(window, &o.tp, line),
        Event::Txn(t) => {
            let named = window.txn.as_deref() == Some(&*t.txn);
            let moves = t.offsets.iter().any(|(_, tp, _)| same(window, tp));
            (named || moves).then(|| line.to_owned())
        }
        Event::Init(i) => (window.txn.is_some() && inside(window, i.t)).then(|| line.to_owned()),
        Event::Ends(e) => {
            if inside(window, e.t) {
                of(window, &e.tp, line)
            } else {
                None
            }
        }
        Event::Nemesis(_) | Event::Live(_) | Event::Run(_) | Event::Fatal(_) => {
            Some(line.to_owned())
        }
        Event::Term(_) | Event::Voters(_) => window.tp.is_none().then(|| line.to_owned()),
        Event::Meta(m) => {
            let named = window.key.as_deref() == Some(&*m.key);
            (named && inside(window, m.t)).then(|| line.to_owned())
        }
        Event::DeleteRecords(d) => of(window, &d.tp, line),
        Event::Acquired(a) => shared(window, &a.group, &a.tp, (a.first, a.last), line),
        Event::Acked(a) => shared(window, &a.group, &a.tp, (a.first, a.last), line),
        Event::Drained(d) => shared(window, &d.group, &d.tp, (d.from, d.to), line),
        Event::Left(l) => {
            let named = window.group.as_deref() == Some(&*l.group);
            (named && inside(window, (l.t, l.t))).then(|| line.to_owned())
        }
        Event::Unheard(u) => shared(window, &u.group, &u.tp, (0, i64::MAX), line),
        Event::Share(s) => (window.group.as_deref() == Some(&*s.group)).then(|| line.to_owned()),
        Event::Topic(_) | Event::Admin(_) => None,
    }
}

fn inside(window: &Window, t: (u64, u64)) -> bool {
    window.times.is_some_and(|(from, to)| t.1 >= from && t.0 <= to)
}

fn same(window: &Window, tp: &Tp<'_>) -> bool {
    window.tp.as_ref().is_some_and(|(topic, index)| *topic == tp.0 && *index == tp.1)
}

fn of(window: &Window, tp: &Tp<'_>, line: &str) -> Option<String> {
    same(window, tp).then(|| line.to_owned())
}

fn shared(
    window: &Window,
    group: &str,
    tp: &Tp<'_>,
    (first, last): (i64, i64),
    line: &str,
) -> Option<String> {
    let here = window.offsets.is_some_and(|(a, b)| first <= b && last >= a);
    let named = window.group.as_deref() == Some(group);
    (same(window, tp) && here && named).then(|| line.to_owned())
}

fn at(window: &Window, tp: &Tp<'_>, offset: i64) -> bool {
    let near = window.offsets.is_some_and(|(a, b)| offset >= a - 1 && offset <= b.min(a + 4) + 1);
    same(window, tp) && near
}

fn records(window: &Window, tp: &Tp<'_>, all: &[Read<'_>], head: &str) -> Option<String> {
    let concerned =
        |r: &&Read<'_>| at(window, tp, r.0) || window.values.contains(&fingerprint(&r.1));
    let shown: Vec<_> = all.iter().filter(concerned).map(|(o, v)| format!("{o}: {v}")).collect();
    if shown.is_empty() { None } else { Some(format!("{head}: {}", shown.join(", "))) }
}
