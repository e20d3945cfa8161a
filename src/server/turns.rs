//! Whose turn it is: requests of one producer that must be carried out in the order they came, while
//! one of them waits for something else. Who comes takes a place behind the last; the place is given
//! up when it is dropped, whatever became of the request.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::channel::oneshot;

/// A producer: id and epoch.
type Key = (i64, i16);

/// Somebody in a line, as who comes behind sees it.
#[derive(Debug)]
struct Ahead {
    number: u64,
    gone: oneshot::Receiver<Gone>,
}

/// Somebody left, and this is who was ahead, if the place was left before its turn.
#[derive(Debug)]
struct Gone(Option<Ahead>);

#[derive(Debug, Default)]
struct Line {
    last: BTreeMap<Key, Ahead>,
    given: u64,
}

/// All lines. A cheap handle; clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Turns(Arc<Mutex<Line>>);

/// A place in a line.
#[derive(Debug)]
pub(crate) struct Place {
    turns: Turns,
    key: Key,
    number: u64,
    ahead: Option<Ahead>,
    here: Option<oneshot::Sender<Gone>>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody stands in this line.
    pub(crate) fn is_taken(&self, key: Key) -> bool {
        self.lock().last.contains_key(&key)
    }

    /// Takes the place behind the last.
    pub(crate) fn take(&self, key: Key) -> Place {
        let (here, gone) = oneshot::channel();
        let mut line = self.lock();
        line.given += 1;
        let number = line.given;
        let ahead = line.last.insert(key, Ahead { number, gone });
        Place { turns: self.clone(), key, number, ahead, here: Some(here) }
    }
}

impl Place {
    /// Waits until all who came before are gone.
    pub(crate) async fn reached(&mut self) {
        while let Some(ahead) = &mut self.ahead {
            self.ahead = (&mut ahead.gone).await.ok().and_then(|Gone(next)| next);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut line = self.turns.lock();
        let ahead = self.ahead.take();
        if line.last.get(&self.key).is_some_and(|last| last.number == self.number) {
            match ahead {
                Some(ahead) => line.last.insert(self.key, ahead),
                None => line.last.remove(&self.key),
            };
        } else if let Some(here) = self.here.take() {
            let _ = here.send(Gone(ahead));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn has_turn(place: &mut Place) -> bool {
        place.reached().now_or_never().is_some()
    }

    #[test]
    fn places_are_reached_in_the_order_they_were_taken() {
        let turns = Turns::default();
        let (mut a, mut b) = (turns.take((7, 0)), turns.take((7, 0)));
        let mut other = turns.take((7, 1));
        assert!(has_turn(&mut a) && !has_turn(&mut b) && has_turn(&mut other));
        drop(a);
        assert!(turns.is_taken((7, 0)) && has_turn(&mut b));
        drop((b, other));
        assert!(!turns.is_taken((7, 0)) && turns.lock().last.is_empty());
    }

    #[test]
    fn who_leaves_early_lets_nobody_pass_those_ahead() {
        let turns = Turns::default();
        let [mut a, b, mut c, d] = [(); 4].map(|()| turns.take((7, 0)));
        drop((b, d));
        let mut e = turns.take((7, 0));
        assert!(has_turn(&mut a) && !has_turn(&mut c) && !has_turn(&mut e));
        drop(a);
        assert!(has_turn(&mut c) && !has_turn(&mut e));
        drop(e);
        assert!(turns.is_taken((7, 0)));
        drop(c);
        assert!(turns.lock().last.is_empty());
    }
}
