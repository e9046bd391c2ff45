//! A table, as text and as Markdown.

use std::fmt::Write;

/// A table: the first columns are text, and the others are figures.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) header: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    /// The number of columns with text.
    pub(crate) words: usize,
}

impl Table {
    /// The table as text, with aligned columns.
    pub(crate) fn text(&self) -> String {
        let header: Vec<String> = self.header.iter().map(|&cell| cell.to_owned()).collect();
        let lines = || std::iter::once(&header).chain(&self.rows).map(Vec::as_slice);
        let width = |column: usize| {
            lines().filter_map(|line: &[String]| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        let mut text = format!("{}\n", self.title);
        for line in lines() {
            for (column, cell) in line.iter().enumerate() {
                let width = widths[column];
                let _ = if column < self.words {
                    write!(text, "  {cell:<width$}")
                } else {
                    write!(text, "  {cell:>width$}")
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// The table as Markdown, with its title as a heading.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n| {} |\n|", self.title, self.header.join(" | "));
        for column in 0..self.header.len() {
            text.push_str(if column < self.words { "---|" } else { "---:|" });
        }
        for row in &self.rows {
            let _ = write!(text, "\n| {} |", row.join(" | "));
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_counted_in_characters() {
        let table = Table {
            title: "T".into(),
            header: vec!["who", "s"],
            rows: vec![vec!["a ÷ b".into(), "1.5".into()], vec!["c".into(), "10".into()]],
            words: 1,
        };
        assert_eq!(table.text(), "T\n  who      s\n  a ÷ b  1.5\n  c       10\n");
        assert_eq!(table.markdown(), "### T\n\n| who | s |\n|---|---:|\n| a ÷ b | 1.5 |\n| c | 10 |\n");
    }
}
