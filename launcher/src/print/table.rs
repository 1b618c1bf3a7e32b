//! Tables as `docker ps` draws them: no lines, two spaces between columns, the header in capitals.
//! It knows nothing of what stands in them.

use unicode_width::UnicodeWidthStr;

use super::printable;

/// Lays out rows under a header; nothing is wrapped, so that a script can cut columns out of it.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let names = header.iter().map(|&cell| cell.to_owned()).collect();
    let plain = |row: Vec<String>| row.iter().map(|cell| printable(cell)).collect();
    let rows: Vec<Vec<String>> = std::iter::once(names).chain(rows.into_iter().map(plain)).collect();
    let mut widths = vec![0; header.len()];
    for (column, cell) in rows.iter().flat_map(|row| row.iter().enumerate()) {
        widths[column] = widths[column].max(cell.width());
    }
    let mut text = String::with_capacity(rows.len() * (widths.iter().sum::<usize>() + 2 * widths.len()));
    for row in &rows {
        if !text.is_empty() {
            text.push('\n');
        }
        let began = text.len();
        for (cell, width) in row.iter().zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width + 2 - cell.width()));
        }
        text.truncate(began + text[began..].trim_end().len());
    }
    text
}

/// Lays out names and values, one pair a line, below a heading.
pub(crate) fn pairs(heading: &str, pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("{heading}\n");
    for (name, value) in pairs {
        // A value of several lines is kept in its column.
        let value: Vec<String> = value.lines().map(printable).collect();
        let value = value.join(&format!("\n  {:width$}  ", ""));
        text.push_str(&format!("  {name:width$}  {value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![vec!["keystone".to_owned(), "zed".to_owned()], vec!["db".to_owned(), String::new()]];
        assert_eq!(table(&["SERVICE", "RELEASE"], rows), "SERVICE   RELEASE\nkeystone  zed\ndb");
        assert_eq!(table(&["SERVICE"], Vec::new()), "SERVICE");
        // Two characters that take the place of four.
        let rows = vec![vec!["\u{6b63}\u{5728}".to_owned(), "1".to_owned()]];
        assert_eq!(table(&["A", "B"], rows), "A     B\n\u{6b63}\u{5728}  1");
    }

    #[test]
    fn a_value_of_two_lines_stays_in_its_column() {
        let pairs = pairs("x", &[("state", "running".into()), ("a", "1\n2".into())]);
        assert_eq!(pairs, "x\n  state  running\n  a      1\n         2\n");
        assert_eq!(super::pairs("x", &[("a", "\u{1b}[2J".into())]), "x\n  a  \u{fffd}[2J\n");
    }
}
