//! Which topic names there may be (`Topic.java`): their form, and names that metrics would confuse
//! because they differ in `.` and `_` alone.

use crate::base::limits::TOPIC_NAME_LEN_MAX;
use crate::metadata::topics::Topics;

/// The topic of the metadata log, which no client may create.
pub(super) const CLUSTER_METADATA: &str = "__cluster_metadata";

/// Whether a topic may have that name.
///
/// # Errors
/// The text for the client.
pub(super) fn check(name: &str) -> Result<(), String> {
    let reason = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.chars().count() > TOPIC_NAME_LEN_MAX {
        format!("the length of '{name}' is longer than the max allowed length {TOPIC_NAME_LEN_MAX}")
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' \
             and '-'"
        )
    } else {
        return Ok(());
    };
    Err(format!("Topic name is invalid: {reason}"))
}

/// The name that stands for all names confused with it.
pub(super) fn unified(name: &str) -> String {
    name.replace('.', "_")
}

/// A topic whose name differs from `name` in `.` and `_` alone, or not at all.
pub(super) fn colliding<'a>(topics: &'a Topics, name: &str) -> Option<&'a str> {
    if name.contains(['.', '_']) { find(topics, String::new(), name) } else { None }
}

/// Follows both readings of each `.` and `_`, as far as any topic begins so.
fn find<'a>(topics: &'a Topics, mut prefix: String, rest: &str) -> Option<&'a str> {
    let Some(at) = rest.find(['.', '_']) else {
        prefix.push_str(rest);
        return topics.by_name(&prefix).map(|t| &*t.name);
    };
    let (plain, rest) = (&rest[..at], &rest[at + 1..]);
    prefix.push_str(plain);
    ['.', '_'].into_iter().find_map(|c| {
        let prefix = format!("{prefix}{c}");
        let some = topics.names_from(&prefix).next().is_some_and(|(n, _)| n.starts_with(&prefix));
        if some { find(topics, prefix, rest) } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Uuid;
    use crate::metadata::{Delta, Image, Record};

    #[test]
    fn names_are_checked() {
        for good in ["a", "A.b_c-9", &"x".repeat(249)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("", "the empty string"),
            (".", "'.' is not allowed"),
            ("..", "'..' is not allowed"),
            ("a b", "other than ASCII alphanumerics"),
            ("ä", "other than ASCII alphanumerics"),
            (&*"x".repeat(250), "longer than the max allowed length 249"),
        ] {
            assert!(check(bad).unwrap_err().contains(part), "{bad}");
        }
    }

    #[test]
    fn dots_and_underscores_are_confused() {
        let mut delta = Delta::new(&Image::default());
        for (i, name) in ["a.b_c", "a_x", "plain"].into_iter().enumerate() {
            let id = Uuid([i as u8 + 1; 16]);
            delta.replay(&Record::Topic { name: name.into(), id }, 0).unwrap();
        }
        let topics = delta.image().topics();
        assert_eq!(colliding(topics, "a_b.c"), Some("a.b_c"));
        assert_eq!(colliding(topics, "a.x"), Some("a_x"));
        assert_eq!(colliding(topics, "a.b"), None);
        assert_eq!(colliding(topics, "plain"), None, "nothing to confuse");
        assert_eq!(unified("a.b_c"), "a_b_c");
    }
}
