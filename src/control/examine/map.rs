//! The map of chunk states, drawn with one character for a run of chunks.

use std::fmt::Write;

use super::report::BitmapReport;
use crate::bitmap::state::{ALL_STATES, STATES, safer_byte};
use crate::control::units::size_text;

/// Columns before the first character of a row, which tell where it begins.
const LABEL_COLUMNS: usize = 16;
/// Rows at most.
const ROWS_MAX: usize = 16;
/// Characters of a row at least. It is a power of two, so that rows begin at round sizes.
const ROW_COLUMNS_MIN: usize = 16;
/// Characters of a row at most.
const ROW_COLUMNS_MAX: usize = 128;

/// Character of each state, by value; the last one is of bytes that are no state.
pub(super) const LETTERS: [char; STATES + 1] = ['.', '-', 'D', 'N', 'S', 'n', 's', '_', '?'];

/// Colour of each state as an SGR parameter: dim, green, yellow, red, cyan.
const COLOURS: [&str; STATES + 1] = ["2", "32", "33", "31", "36", "31", "36", "32", "35"];

/// What is drawn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal.
    pub columns: usize,
    /// It shows colours.
    pub is_coloured: bool,
}

impl Style {
    fn paint(self, state: usize, text: &str) -> String {
        if self.is_coloured {
            format!("\x1b[{}m{text}\x1b[0m", COLOURS[state])
        } else {
            text.to_owned()
        }
    }
}

/// Index into [`LETTERS`] of a byte from disk.
fn index_of(byte: u8) -> usize {
    usize::from(byte).min(STATES)
}

/// Name of the state with this index.
#[must_use]
pub(super) fn name_of(index: usize) -> &'static str {
    ALL_STATES.get(index).map_or("no_state", |state| state.name())
}

/// The states with each run of `run` chunks made one: the most doubtful of them.
#[must_use]
pub(super) fn condense(states: &[u8], run: usize) -> Vec<u8> {
    let most_doubtful = |run: &[u8]| {
        let worst = run.iter().copied().reduce(safer_byte);
        worst.expect("a run is not empty")
    };
    states.chunks(run.max(1)).map(most_doubtful).collect()
}

/// The cells as characters.
#[must_use]
pub(super) fn letters(cells: &[u8]) -> String {
    cells.iter().map(|&byte| LETTERS[index_of(byte)]).collect()
}

/// Legend with counts, then the map.
#[must_use]
pub(super) fn draw(bitmap: &BitmapReport, style: Style) -> String {
    legend(bitmap, style) + &rows(bitmap, style)
}

fn legend(bitmap: &BitmapReport, style: Style) -> String {
    let mut text = format!("    {:21}{:>12}{:>13}\n", "state", "chunks", "size");
    let total = bitmap.states.len().max(1) as u128;
    for (index, (chunks, bytes)) in bitmap.counts().into_iter().enumerate() {
        if chunks == 0 {
            continue;
        }
        let letter = style.paint(index, &LETTERS[index].to_string());
        let (name, size) = (name_of(index), size_text(bytes));
        let hundredths = u128::from(chunks) * 10_000 / total;
        let percent = format!("{}.{:02} %", hundredths / 100, hundredths % 100);
        let _ = writeln!(text, "  {letter} {name:21}{chunks:>12}{size:>13}{percent:>11}");
    }
    text
}

fn rows(bitmap: &BitmapReport, style: Style) -> String {
    if bitmap.states.is_empty() {
        return "  the bitmap has no chunks\n".to_owned();
    }
    let room = style.columns.saturating_sub(LABEL_COLUMNS);
    let columns = room.clamp(ROW_COLUMNS_MIN, ROW_COLUMNS_MAX);
    let columns = 1 << columns.ilog2();
    let run = bitmap.states.len().div_ceil(columns * ROWS_MAX).next_power_of_two();
    let cells = condense(&bitmap.states, run);
    let cell = size_text(bitmap.chunk_bytes().saturating_mul(run as u64));
    let mut text = if run == 1 {
        format!("  map: one character is one chunk ({cell})\n")
    } else {
        format!("  map: one character is {run} chunks ({cell}), the most doubtful of them shown\n")
    };
    for (row, cells) in cells.chunks(columns).enumerate() {
        let start = bitmap.chunk_bytes().saturating_mul((row * columns * run) as u64);
        let _ = writeln!(text, "{:>14}  {}", size_text(start), painted(cells, style));
    }
    text
}

/// A row; neighbours of one colour share its escape sequence.
fn painted(cells: &[u8], style: Style) -> String {
    let runs = cells.chunk_by(|a, b| index_of(*a) == index_of(*b));
    runs.map(|run| style.paint(index_of(run[0]), &letters(run))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::md::{NewArray, NewMember, Timestamp, create};

    const PLAIN: Style = Style { columns: 80, is_coloured: false };

    fn bitmap(states: Vec<u8>) -> BitmapReport {
        let member = |tag| NewMember {
            device_sectors: 1 << 21,
            logical_block_size: 512,
            device_uuid: [tag; 16],
        };
        let creation = create(&NewArray {
            name: "r".to_owned(),
            set_uuid: [7; 16],
            ctime: Timestamp::from_unix(1, 0),
            assume_clean: false,
            members: vec![member(1), member(2)],
        })
        .unwrap();
        let mut superblock = creation.bitmap;
        // 100 sectors short of a whole number of chunks.
        superblock.sync_size_sectors = states.len() as u64 * 128 - 100;
        BitmapReport { superblock, probe: 0, states, differing: Vec::new() }
    }

    #[test]
    fn one_character_a_chunk() {
        let mut states = vec![0; 70];
        states[3] = 2;
        states[64] = 3;
        states[69] = 99;
        let text = draw(&bitmap(states), PLAIN);
        let expected = "    \
state                      chunks         size
  . unwritten                      67     4.18 MiB    95.71 %
  D dirty                           1       64 KiB     1.42 %
  N need_sync                       1       64 KiB     1.42 %
  ? no_state                        1       14 KiB     1.42 %
  map: one character is one chunk (64 KiB)
           0 B  ...D............................................................
         4 MiB  N....?
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_run_shows_its_most_doubtful_chunk() {
        let mut states = vec![1; 64 * 16 * 4];
        (states[4], states[5], states[8]) = (2, 0, 4);
        let text = draw(&bitmap(states), PLAIN);
        assert!(text.contains("one character is 4 chunks (256 KiB), the most doubtful"), "{text}");
        assert!(text.contains("  -DS----"), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("----")).count(), ROWS_MAX, "{text}");
    }

    #[test]
    fn colours_are_for_terminals() {
        let coloured = Style { columns: 80, is_coloured: true };
        let text = draw(&bitmap(vec![1, 1, 2]), coloured);
        assert!(text.contains("\x1b[32m--\x1b[0m\x1b[33mD\x1b[0m"), "{text}");
        assert!(!draw(&bitmap(vec![1, 1, 2]), PLAIN).contains('\x1b'));
    }

    proptest! {
        #[test]
        fn every_chunk_is_drawn_and_counted(
            states in proptest::collection::vec(any::<u8>(), 0..5000), columns in 0usize..300
        ) {
            let bitmap = bitmap(if states.is_empty() { vec![0] } else { states });
            let style = Style { columns, is_coloured: false };
            let text = draw(&bitmap, style);
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap();
            prop_assert!(widest <= columns.max(80), "{}", text);
            let counts = bitmap.counts();
            let chunks: u64 = counts.iter().map(|(chunks, _)| chunks).sum();
            let bytes: u64 = counts.iter().map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(chunks, bitmap.states.len() as u64);
            prop_assert_eq!(bytes, bitmap.superblock.sync_size_sectors * 512);
        }
    }
}
