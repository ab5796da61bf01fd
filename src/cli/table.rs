//! Text tables.

use crate::model::printable_line;

/// Formats rows in columns that are as wide as their widest cell. A row stays one line whatever its cells contain.
pub(super) fn columns(rows: &[impl AsRef<[String]>]) -> String {
    let shown = |row: &[String]| row.iter().map(|cell| printable_line(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| shown(row.as_ref())).collect();
    let mut widths: Vec<usize> = Vec::new();
    for row in &rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
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
