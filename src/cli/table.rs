//! Text tables.

use crate::model::printable_line;

/// Formats rows in columns that are as wide as their widest cell. A row stays one line whatever its cells contain.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        rows.iter().map(|row| std::array::from_fn(|i| printable_line(&row[i]).into_owned())).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_can_break_neither_its_row_nor_the_terminal() {
        let cells = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        let rows = [cells("A", "B"), cells("x\ny", "\u{1b}[31mred\u{202e}")];
        assert_eq!(columns(&rows), "A     B\nx\\ny  \\u001b[31mred\\u202e");
    }
}
