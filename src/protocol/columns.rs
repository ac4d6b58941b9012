//! Text in columns.

use std::fmt::Write;

/// The side of a column on which its texts begin or end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    /// For numbers.
    Right,
}

/// The columns of a table for people: how wide each is, and how its cells are aligned. Widths are in
/// characters.
#[derive(Debug, Clone)]
pub(crate) struct Columns<const N: usize> {
    columns: [(usize, Align); N],
    gap: usize,
}

impl<const N: usize> Columns<N> {
    /// Columns of these widths, with so many spaces between two.
    #[cfg(any(test, feature = "cli"))]
    pub(crate) fn new(columns: [(usize, Align); N], gap: usize) -> Self {
        Self { columns, gap }
    }

    /// Columns that are as wide as their widest cell in any of the rows.
    pub(crate) fn fitting<'a>(
        aligns: [Align; N],
        gap: usize,
        rows: impl Iterator<Item = &'a [String; N]>,
    ) -> Self {
        let mut columns = aligns.map(|align| (0, align));
        for row in rows {
            for ((width, _), cell) in columns.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        Self { columns, gap }
    }

    /// One row as a line with its end, without spaces after the last cell. A cell that is wider than
    /// its column is not cut.
    pub(crate) fn line<T: AsRef<str>>(&self, cells: &[T; N]) -> String {
        let mut line = String::new();
        for ((width, align), cell) in self.columns.iter().zip(cells) {
            let cell = cell.as_ref();
            let written = match align {
                Align::Left => write!(line, "{cell:<width$}"),
                Align::Right => write!(line, "{cell:>width$}"),
            };
            written.expect("writing to a String does not fail");
            line.extend(std::iter::repeat_n(' ', self.gap));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_aligned_and_nothing_is_cut() {
        let rows = [["SEAT", "STATE"], ["0", "live"], ["10", ""]].map(|row| row.map(str::to_owned));
        let columns = Columns::fitting([Align::Right, Align::Left], 2, rows.iter());
        let text: String = rows.iter().map(|row| columns.line(row)).collect();
        assert_eq!(text, "SEAT  STATE\n   0  live\n  10\n");
        let fixed = Columns::new([(4, Align::Left), (3, Align::Right)], 0);
        assert_eq!(fixed.line(&["a", "1"]), "a     1\n");
        assert_eq!(fixed.line(&["longer", "1000"]), "longer1000\n");
    }
}
