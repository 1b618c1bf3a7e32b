//! Tables as `docker ps` draws them: no lines, two spaces between columns, the header in capitals.
//! It knows nothing of what stands in them.

use comfy_table::{ContentArrangement, Table};

use super::printable;

/// Lays out rows under a header; nothing is wrapped, so that a script can cut columns out of it.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    let plain = |row: Vec<String>| row.iter().map(|cell| printable(cell)).collect::<Vec<_>>();
    table.add_rows(rows.into_iter().map(plain));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
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
    }

    #[test]
    fn a_value_of_two_lines_stays_in_its_column() {
        let pairs = pairs("x", &[("state", "running".into()), ("a", "1\n2".into())]);
        assert_eq!(pairs, "x\n  state  running\n  a      1\n         2\n");
        assert_eq!(super::pairs("x", &[("a", "\u{1b}[2J".into())]), "x\n  a  \u{fffd}[2J\n");
    }
}
