//! Faults of a manifest: what is wrong, where, and what to try.

use std::{fmt::Write as _, ops::Range};

use serde_json::json;

/// The kinds of fault. Each has a page in `docs/errors/` and one golden at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Code {
    /// The text is not TOML.
    S0101,
    /// A key that is not known here.
    S0102,
    /// A value of another type than the key takes.
    S0103,
    /// A key that must be there and is not.
    S0104,
    /// A value that cannot be read: its unit, its form.
    S0105,
    /// A word that is none of those the key takes.
    S0106,
    /// A manifest version that this program does not read.
    S0107,
    /// A name with letters that names do not have.
    S0108,
    /// A resource, workload, group, size or secret that is not declared.
    S0109,
    /// Needs that lead back to where they began.
    S0110,
    /// A `{...}` that stands for nothing.
    S0111,
    /// A vault reference that is not written as one.
    S0112,
    /// A vault reference to a vault or a secret that is not declared.
    S0113,
    /// Subnets that lie outside, overlap, or are not declared.
    S0114,
    /// An objective that nothing measures.
    S0115,
    /// A right that is missing for what is declared elsewhere.
    S0116,
    /// A number outside its bounds.
    S0117,
    /// Keys that exclude each other, or of which one is needed.
    S0118,
    /// A stamp that is not declared.
    S0119,
    /// A secret in the manifest.
    S0120,
    /// Two things that would be the same.
    S0121,
    /// A link that does not join two stamps.
    S0122,
    /// A rule of the manifest's own policy that a resource breaks.
    S0123,
}

impl Code {
    pub const ALL: [Self; 23] = [
        Self::S0101,
        Self::S0102,
        Self::S0103,
        Self::S0104,
        Self::S0105,
        Self::S0106,
        Self::S0107,
        Self::S0108,
        Self::S0109,
        Self::S0110,
        Self::S0111,
        Self::S0112,
        Self::S0113,
        Self::S0114,
        Self::S0115,
        Self::S0116,
        Self::S0117,
        Self::S0118,
        Self::S0119,
        Self::S0120,
        Self::S0121,
        Self::S0122,
        Self::S0123,
    ];
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// One fault. `span` is a range of bytes of the manifest's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: Code,
    /// What could not be done to what; one line.
    pub message: String,
    pub span: Range<usize>,
    /// Why, and what else bears on it; a line each.
    pub notes: Vec<String>,
    /// What to try.
    pub hint: Option<String>,
}

/// Where a fault is, for people: both count from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

impl Diagnostic {
    pub fn new(code: Code, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), span, notes: Vec::new(), hint: None }
    }

    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Line and column of its beginning in `text`, the text that was parsed.
    pub fn place(&self, text: &str) -> Place {
        let before = &text[..floor(text, self.span.start)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }

    /// The fault as people read it. `file` is shown as it is; colour only repeats what the text says.
    pub fn render(&self, file: &str, text: &str, colour: bool) -> String {
        let paint =
            |code: &str, part: &str| if colour { format!("\x1b[{code}m{part}\x1b[0m") } else { part.to_owned() };
        let place = self.place(text);
        let start = floor(text, self.span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        let bar = paint("34", "|");
        // Tabs stay tabs under the line, so that the caret stands where the text does.
        let lead: String = text[line_start..start].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let end = floor(text, self.span.end).clamp(start, line_start + line.len().max(start - line_start));
        let carets = "^".repeat(text[start..end].chars().count().max(1));

        let mut out = String::new();
        let _ = writeln!(out, "{}: {}", paint("1;31", &format!("error[{}]", self.code)), paint("1", &self.message));
        let _ = writeln!(out, "{margin}{} {file}:{}:{}", paint("34", "-->"), place.line, place.column);
        let _ = writeln!(out, "{margin} {bar}");
        // The line of a secret is shown up to its name only.
        let line = if self.code == Code::S0120 { format!("{} ...", &text[line_start..end]) } else { line.to_owned() };
        let _ = writeln!(out, "{} {bar} {}", paint("34", &number), printable(&line));
        let _ = writeln!(out, "{margin} {bar} {lead}{}", paint("31", &carets));
        for note in &self.notes {
            let _ = writeln!(out, "{margin} = {}", printable(note));
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "{}: {}", paint("36", "hint"), printable(hint));
        }
        out
    }

    /// The fault as programs read it.
    pub fn to_json(&self, file: &str, text: &str) -> serde_json::Value {
        let place = self.place(text);
        json!({
            "code": self.code.to_string(),
            "message": self.message,
            "file": file,
            "line": place.line,
            "column": place.column,
            "span": [self.span.start, self.span.end],
            "notes": self.notes,
            "hint": self.hint,
        })
    }
}

/// All faults in the order of the text, a blank line between, and how many they are.
pub fn render_all(faults: &[Diagnostic], file: &str, text: &str, colour: bool) -> String {
    let mut out = String::new();
    for fault in faults {
        out.push_str(&fault.render(file, text, colour));
        out.push('\n');
    }
    let plural = if faults.len() == 1 { "fault" } else { "faults" };
    let _ = writeln!(out, "{file}: {} {plural}; `stamp explain CODE` says more", faults.len());
    out
}

/// The last boundary of a character at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Without control characters, which could rewrite a terminal's lines.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_points_at_its_text() {
        let text = "a = 1\n\tbé = \"x\"\n";
        let at = text.find("\"x\"").unwrap();
        let fault = Diagnostic::new(Code::S0105, at..at + 3, "cannot read b").note("why").hint("try");
        assert_eq!(fault.place(text), Place { line: 2, column: 7 });
        assert_eq!(
            fault.render("system.toml", text, false),
            "error[S0105]: cannot read b\n --> system.toml:2:7\n  |\n2 | \tbé = \"x\"\n  | \t     ^^^\n  = why\nhint: try\n"
        );
    }

    #[test]
    fn spans_at_and_past_the_end_are_shown() {
        for (text, span) in [("", 0..0), ("a", 1..1), ("a\n", 2..2), ("é", 1..9), ("a\nb", 0..3)] {
            let shown = Diagnostic::new(Code::S0101, span, "m").render("f", text, true);
            assert!(shown.contains('^'), "{shown}");
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let shown = Diagnostic::new(Code::S0101, 0..1, "m").render("f", "\u{1b}[2J = 1", false);
        assert!(!shown.contains('\u{1b}'));
    }
}
