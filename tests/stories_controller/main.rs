//! Stories of the controller: each file of `tests/stories/controller` is a list of verbs (`> …`)
//! with what the core answered and wrote after each. `UPDATE=1 cargo test` writes the traces anew.

mod schema;
mod show;
mod verbs;
mod words;
mod world;

use std::{fmt::Write as _, fs, path::Path};

use world::World;

fn play(text: &str) -> String {
    let mut world = World::new();
    let mut out = String::new();
    for line in text.lines() {
        if let Some(verb) = line.strip_prefix("> ") {
            world.run(verb);
            writeln!(out, "{line}").unwrap();
            out.push_str(&std::mem::take(&mut world.out));
        } else if line.starts_with('#') || line.is_empty() {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

#[test]
fn stories() {
    let mut wrong = Vec::new();
    let mut files: Vec<_> =
        fs::read_dir("tests/stories/controller").unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let now = play(&text);
        if now != text {
            if std::env::var_os("UPDATE").is_some() {
                fs::write(&path, &now).unwrap();
            } else {
                wrong.push(difference(&path, &text, &now));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE=1 writes the traces anew", wrong.join("\n"));
}

fn difference(path: &Path, text: &str, now: &str) -> String {
    let line = text.lines().zip(now.lines()).position(|(a, b)| a != b);
    let at = line.unwrap_or_else(|| text.lines().count().min(now.lines().count()));
    let show = |t: &str| t.lines().nth(at).unwrap_or("(end)").to_owned();
    format!("{}:{}\n- {}\n+ {}", path.display(), at + 1, show(text), show(now))
}
