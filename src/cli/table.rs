//! The table that Kafka's tools print (`ToolsUtils.prettyPrintTable`): every column as wide as its
//! widest cell, with a tab after each, the last one too. Uses nothing.

/// The table of `rows` under `headers`.
pub(super) fn pretty<const N: usize>(headers: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headers.map(|h| h.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let headers = headers.map(str::to_owned);
    for row in std::iter::once(&headers).chain(rows) {
        for (width, cell) in widths.iter().zip(row) {
            out.push_str(&format!("{cell:width$}\t"));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::pretty;

    #[test]
    fn columns_are_padded_and_end_in_tabs() {
        let rows = [["1".to_owned(), "long cell".to_owned()], ["22".to_owned(), String::new()]];
        let expected = "A \tB        \t\n1 \tlong cell\t\n22\t         \t\n";
        assert_eq!(pretty(["A", "B"], &rows), expected);
    }
}
