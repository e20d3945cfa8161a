//! The house rules, checked on every `cargo test`: the room table of `ARCHITECTURE.md`, landlords,
//! drivers, lengths, nameplates, bans.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const FILE_LINES_MAX: usize = 600;

struct Room {
    uses: BTreeSet<String>,
    waits: String,
}

/// The rows of the table under "## Rooms": room | owns | may use | may wait.
fn rooms() -> BTreeMap<String, Room> {
    let doc = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let table = doc.split("## Rooms").nth(1).expect("ARCHITECTURE.md has a part \"## Rooms\"");
    let mut out: BTreeMap<String, Room> = BTreeMap::new();
    for line in table.lines().filter(|l| l.starts_with("| ")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, uses, waits] = cells[..] else { continue };
        if name == "room" || name.starts_with('-') {
            continue;
        }
        let uses = match uses {
            "—" => BTreeSet::new(),
            "all above" => out.keys().cloned().collect(),
            list => list.split(',').map(|s| s.trim().to_owned()).collect(),
        };
        for used in &uses {
            assert!(out.contains_key(used), "{name} may use {used}, which stands below it");
        }
        out.insert(name.to_owned(), Room { uses, waits: waits.to_owned() });
    }
    assert!(out.len() >= 16, "the room table was read: {:?}", out.keys());
    out
}

/// Crates that only the named places may use: "Landlords" of `ARCHITECTURE.md`.
fn landlords() -> BTreeMap<String, Vec<String>> {
    let doc = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let table = doc.split("## Landlords").nth(1).expect("a part \"## Landlords\"");
    let table = table.split("\n## ").next().unwrap();
    let rows = table.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| crate"));
    rows.map(|l| {
        let cells: Vec<_> = l.trim_matches('|').split('|').map(str::trim).collect();
        let places = cells[1].split(',').map(|s| s.trim().to_owned()).collect();
        (cells[0].replace('-', "_"), places)
    })
    .collect()
}

fn files(dir: &Path, out: &mut Vec<(String, String)>) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for p in entries {
        if p.is_dir() {
            files(&p, out);
        } else if p.extension().is_some_and(|e| e == "rs") {
            out.push((p.display().to_string(), fs::read_to_string(&p).unwrap()));
        }
    }
}

fn ratchet() -> BTreeMap<String, usize> {
    let text = fs::read_to_string("tests/ratchet.txt").unwrap_or_default();
    text.lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| {
            let (path, n) = l.rsplit_once(' ').expect("path lines");
            (path.to_owned(), n.parse().unwrap())
        })
        .collect()
}

/// The rooms that a line of code names after `crate::`.
fn edges(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (i, _) in line.match_indices("crate::") {
        let rest = &line[i + 7..];
        let group = rest.strip_prefix('{').map(|g| g.split('}').next().unwrap_or(g));
        for part in group.unwrap_or(rest).split(',').take(if group.is_some() { 99 } else { 1 }) {
            let word = part.trim_start();
            out.push(word.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    out
}

#[test]
fn house_rules() {
    let (rooms, landlords, ratchet) = (rooms(), landlords(), ratchet());
    let (mut src, mut bad) = (Vec::new(), Vec::new());
    files(Path::new("src"), &mut src);
    for (path, text) in &src {
        let lines = text.lines().count();
        let allowed = ratchet.get(path).copied().unwrap_or(FILE_LINES_MAX);
        if lines > allowed {
            bad.push(format!("{path}: {lines} lines, at most {allowed}"));
        }
        if !text.starts_with("//!") {
            bad.push(format!("{path}: does not open with what it owns (//!)"));
        }
        let stem = path.rsplit('/').next().unwrap_or_default();
        for word in ["impls", "helpers", "utils", "common", "manager"] {
            if stem.trim_end_matches(".rs") == word {
                bad.push(format!("{path}: a file is not named {word}"));
            }
        }
        let room_name = path.split('/').nth(1).unwrap_or_default();
        // Code under `#[cfg(test)]` may look anywhere.
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
        check_landlords(path, code, &landlords, &mut bad);
        if room_name == "testing" || room_name.ends_with(".rs") {
            continue;
        }
        let Some(room) = rooms.get(room_name) else {
            bad.push(format!("{path}: no room of that name in ARCHITECTURE.md"));
            continue;
        };
        check_room(path, code, room_name, room, &rooms, &mut bad);
    }
    for path in ratchet.keys() {
        if !src.iter().any(|(p, _)| p == path) {
            bad.push(format!("tests/ratchet.txt: {path} is gone"));
        }
    }
    bad.sort();
    assert!(bad.is_empty(), "\n{}", bad.join("\n"));
}

fn check_landlords(
    path: &str,
    code: &str,
    landlords: &BTreeMap<String, Vec<String>>,
    bad: &mut Vec<String>,
) {
    for (name, places) in landlords {
        let allowed = places
            .iter()
            .any(|p| path.starts_with(&format!("src/{p}/")) || path == format!("src/{p}.rs"));
        if !allowed
            && (code.contains(&format!("{name}::")) || code.contains(&format!("use {name};")))
        {
            let own = code.lines().any(|l| {
                l.match_indices(&format!("{name}::")).any(|(i, _)| {
                    let before = l[..i].chars().next_back();
                    !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                }) && !l.trim_start().starts_with("//")
            });
            if own {
                bad.push(format!("{path}: {name} belongs to {}", places.join(", ")));
            }
        }
    }
}

fn check_room(
    path: &str,
    code: &str,
    name: &str,
    room: &Room,
    rooms: &BTreeMap<String, Room>,
    bad: &mut Vec<String>,
) {
    let may_wait = match room.waits.as_str() {
        "yes" => true,
        "drivers" => path.ends_with("driver.rs"),
        _ => false,
    };
    let machine =
        ["log", "controller", "replica", "coordinator", "share", "metadata"].contains(&name);
    for (n, line) in code.lines().enumerate() {
        let at = format!("{path}:{}", n + 1);
        if line.trim_start().starts_with("//") {
            continue;
        }
        for to in edges(line) {
            if rooms.contains_key(&to) && to != name && !room.uses.contains(&to) {
                bad.push(format!("{at}: {name} may not use {to}"));
            }
            let root = to == "telemetry" && !may_wait;
            if root {
                bad.push(format!("{at}: {to} is for drivers and waiting rooms"));
            }
        }
        if !may_wait && (line.contains("async fn") || line.contains("tokio::")) {
            bad.push(format!("{at}: async in a pure file"));
        }
        if machine && !may_wait && (line.contains("HashMap") || line.contains("HashSet")) {
            bad.push(format!("{at}: a HashMap's order is entropy; use BTreeMap"));
        }
        if line.chars().count() > 100 && !line.contains("http") {
            bad.push(format!("{at}: over 100 columns"));
        }
    }
}
