//! The words of a story's verb.

use std::collections::BTreeMap;

/// The words of a verb: those without `=`, and the others by name.
pub(crate) struct Words<'a> {
    pub(crate) plain: Vec<&'a str>,
    pub(crate) named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    pub(crate) fn of(line: &'a str) -> Self {
        let (named, plain): (Vec<_>, Vec<_>) =
            line.split_whitespace().partition(|w| w.contains('='));
        let named = named.into_iter().filter_map(|w| w.split_once('=')).collect();
        Self { plain, named }
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, at: usize) -> T {
        self.plain
            .get(at)
            .and_then(|w| w.parse().ok())
            .unwrap_or_else(|| panic!("{:?}", self.plain))
    }

    pub(crate) fn named<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.named.get(name).map(|w| w.parse().ok().unwrap())
    }

    pub(crate) fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }

    pub(crate) fn list(&self, name: &str) -> Option<Vec<i32>> {
        let text = self.named.get(name)?;
        Some(text.split(',').filter(|t| !t.is_empty()).map(|t| t.parse().unwrap()).collect())
    }

    pub(crate) fn lists(&self, name: &str) -> Option<Vec<Vec<i32>>> {
        let text = self.named.get(name)?;
        let one = |t: &str| t.split(',').map(|n| n.parse().unwrap()).collect();
        Some(text.split(';').map(one).collect())
    }
}
