//! The terminal: standard output is data, standard error is talk; colour is never the only sign.

use std::io::{IsTerminal as _, Write as _};

/// Writes one line of data.
pub fn data(line: &str) {
    // A reader that left is the end of the data, not a failure of ours.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes one line of talk.
pub fn talk(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether talk goes to a terminal that can be drawn on.
pub fn is_live() -> bool {
    std::io::stderr().is_terminal() && std::env::var("TERM").is_ok_and(|t| t != "dumb")
}

fn coloured() -> bool {
    is_live() && std::env::var_os(crate::env::NO_COLOR).is_none_or(|v| v.is_empty())
}

fn paint(code: &str, text: &str) -> String {
    if coloured() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

pub fn red(text: &str) -> String {
    paint("1;31", text)
}

pub fn green(text: &str) -> String {
    paint("32", text)
}

pub fn dim(text: &str) -> String {
    paint("2", text)
}

pub fn bold(text: &str) -> String {
    paint("1", text)
}

pub fn cyan(text: &str) -> String {
    paint("36", text)
}

/// Columns and rows of the terminal; 80 by 24 where it does not say.
pub fn size() -> (usize, usize) {
    rustix::termios::tcgetwinsize(std::io::stderr())
        .map_or((80, 24), |s| (usize::from(s.ws_col).max(20), usize::from(s.ws_row).max(5)))
}

/// A table with two spaces between columns, on standard output.
pub fn table(head: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (index, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            if index + 1 < cells.len() {
                text.extend(std::iter::repeat_n(' ', widths[index] + 2 - cell.chars().count()));
            }
        }
        text.trim_end().to_owned()
    };
    data(&line(head.to_vec()));
    for row in rows {
        data(&line(row.iter().map(String::as_str).collect()));
    }
}
