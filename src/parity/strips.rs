//! Lists of strips for the kernels' arguments, without the heap.

use std::ops::Deref;

use crate::limits::MEMBERS_MAX;

/// A list of at most [`MEMBERS_MAX`] entries, for the stack.
#[derive(Debug, Clone, Copy)]
pub struct List<S> {
    entries: [S; MEMBERS_MAX],
    len: usize,
}

/// Strips that are all there: `let strips: Strips = bufs.iter().map(IoBuf::as_slice).collect()`.
pub type Strips<'a> = List<&'a [u8]>;

/// The data strips of a stripe in md's order, `None` where one is lost.
pub type Survivors<'a> = List<Option<&'a [u8]>>;

impl<S: Copy + Default> List<S> {
    /// An empty list.
    #[must_use]
    pub fn new() -> Self {
        Self { entries: [S::default(); MEMBERS_MAX], len: 0 }
    }

    /// Adds one at the end.
    ///
    /// # Panics
    /// If [`MEMBERS_MAX`] are there already: no array has more members.
    pub fn push(&mut self, strip: S) {
        assert!(self.len < MEMBERS_MAX, "more strips than an array has members");
        self.entries[self.len] = strip;
        self.len += 1;
    }
}

impl<S: Copy + Default> Default for List<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Deref for List<S> {
    type Target = [S];

    fn deref(&self) -> &[S] {
        &self.entries[..self.len]
    }
}

impl<S: Copy + Default> Extend<S> for List<S> {
    fn extend<I: IntoIterator<Item = S>>(&mut self, strips: I) {
        for strip in strips {
            self.push(strip);
        }
    }
}

impl<S: Copy + Default> FromIterator<S> for List<S> {
    fn from_iter<I: IntoIterator<Item = S>>(strips: I) -> Self {
        let mut list = Self::new();
        list.extend(strips);
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_as_many_as_an_array_has_members() {
        let strip = [1u8; 4];
        let mut strips: Strips<'_> = std::iter::repeat_n(&strip[..], MEMBERS_MAX - 1).collect();
        assert_eq!(strips.len(), MEMBERS_MAX - 1);
        strips.push(&[]);
        assert_eq!((strips[0], strips[MEMBERS_MAX - 1]), (&strip[..], &[][..]));
        let one_more = std::panic::catch_unwind(move || strips.push(&[]));
        assert!(one_more.is_err());
        assert!(Survivors::default().is_empty());
    }
}
