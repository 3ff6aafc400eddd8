//! The steps of long work as they happen: a tree that is drawn anew on a terminal, plain lines elsewhere.

use std::io::Write as _;

use api::supervisor::{Event, PlannedStep, StepState};

use crate::screen;

const SPIN: [&str; 8] = ["⠋", "⠙", "⠸", "⠴", "⠦", "⠇", "⠏", "⠹"];

struct Line {
    id: String,
    state: Option<StepState>,
    milliseconds: u64,
    note: String,
    began: Option<std::time::Instant>,
}

/// Shows events.
pub struct Live {
    title: String,
    lines: Vec<Line>,
    drawn: usize,
    turn: usize,
    live: bool,
    began: std::time::Instant,
}

impl Live {
    /// `plain`: lines even on a terminal, for scripts.
    pub fn new(title: String, plain: bool) -> Self {
        let live = !plain && screen::is_live();
        Self { title, lines: Vec::new(), drawn: 0, turn: 0, live, began: std::time::Instant::now() }
    }

    /// Takes an event in and shows it.
    pub fn take(&mut self, event: &Event) {
        match event {
            Event::Plan { steps } => {
                self.lines = steps
                    .iter()
                    .map(|PlannedStep { id, .. }| Line {
                        id: id.clone(),
                        state: None,
                        milliseconds: 0,
                        note: String::new(),
                        began: None,
                    })
                    .collect();
            }
            Event::Step { id, state, milliseconds, note } => {
                if let Some(line) = self.lines.iter_mut().find(|l| l.id == *id) {
                    line.state = Some(*state);
                    line.milliseconds = *milliseconds;
                    line.note = note.clone();
                    line.began.get_or_insert_with(std::time::Instant::now);
                }
                if !self.live {
                    self.plain(id, *state, *milliseconds, note);
                }
            }
            _ => {}
        }
        self.draw();
    }

    fn plain(&self, id: &str, state: StepState, milliseconds: u64, note: &str) {
        let note = if note.is_empty() { String::new() } else { format!("  ({note})") };
        match state {
            StepState::Running => {}
            // Every ten seconds is often enough for a log.
            StepState::Waiting if milliseconds % 10_000 >= 700 => {}
            StepState::Waiting => {
                screen::talk(&format!("  ... {id}, {}: awaits {}", seconds(milliseconds), note.trim()))
            }
            StepState::Done => screen::talk(&format!("  ok  {id}, {}{note}", seconds(milliseconds))),
            StepState::Failed => screen::talk(&format!("  FAILED  {id}, {}{note}", seconds(milliseconds))),
        }
    }

    /// Draws the tree anew in place of the last one.
    pub fn draw(&mut self) {
        if !self.live || self.lines.is_empty() {
            return;
        }
        self.turn += 1;
        let (columns, rows) = screen::size();
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let mut shown = vec![format!(
            "{}  {}",
            screen::bold(&self.title),
            screen::dim(&seconds(self.began.elapsed().as_millis() as u64))
        )];
        // A terminal lower than the plan shows what is under way; the rest is counted.
        let room = rows.saturating_sub(3);
        let hidden = self.lines.len().saturating_sub(room);
        let skip = if hidden > 0 {
            self.lines.iter().take(hidden).filter(|l| l.state == Some(StepState::Done)).count()
        } else {
            0
        };
        let visible: Vec<&Line> = self.lines.iter().skip(skip).take(room).collect();
        for (index, line) in visible.iter().enumerate() {
            let branch = if index + 1 == visible.len() { "└─" } else { "├─" };
            let width = columns.saturating_sub(4 + 2 + 10);
            let (sign, time) = match line.state {
                None => (screen::dim("·"), String::new()),
                Some(StepState::Running | StepState::Waiting) => {
                    let ms = line.began.map_or(0, |b| b.elapsed().as_millis() as u64);
                    (screen::cyan(SPIN[self.turn % SPIN.len()]), seconds(ms))
                }
                Some(StepState::Done) => (screen::green("✓"), seconds(line.milliseconds)),
                Some(StepState::Failed) => (screen::red("✗"), seconds(line.milliseconds)),
            };
            let words = match (&line.state, line.note.is_empty()) {
                (Some(StepState::Waiting), false) => format!("{}  awaits {}", line.id, line.note),
                (_, false) => format!("{}  {}", line.id, line.note),
                (_, true) => line.id.clone(),
            };
            let words: String = if words.chars().count() > width {
                words.chars().take(width.saturating_sub(1)).chain(['…']).collect()
            } else {
                words
            };
            let words = if let Some(rest) = words.strip_prefix(line.id.as_str()) {
                format!("{}{}", line.id, screen::dim(rest))
            } else {
                words
            };
            shown.push(format!("{branch} {sign} {words}  {}", screen::dim(&time)));
        }
        for line in &shown {
            text.push_str("\x1b[2K");
            text.push_str(line);
            text.push('\n');
        }
        // Lines left of a longer drawing.
        for _ in shown.len()..self.drawn {
            text.push_str("\x1b[2K\n");
        }
        self.drawn = self.drawn.max(shown.len());
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

/// `0.42 s`, `12 s`.
pub fn seconds(milliseconds: u64) -> String {
    if milliseconds < 10_000 {
        format!("{:.2} s", milliseconds as f64 / 1000.0)
    } else {
        format!("{} s", milliseconds / 1000)
    }
}
