//! The rules of audits, without any input or output: what an answer may be, whether it passes, what a form's score is.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

pub use sdk::fault::FieldErrors;

/// The three roles, least first.
pub const ROLES: [&str; 3] = ["staff", "auditor", "admin"];

/// How a question is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    YesNo,
    Number,
    Choice,
    Text,
    Medicine,
}

impl Kind {
    pub const ALL: [(Kind, &'static str, &'static str); 5] = [
        (Kind::YesNo, "yes-no", "Yes, no or not applicable"),
        (Kind::Number, "number", "A number within bounds"),
        (Kind::Choice, "choice", "One of several, the first is right"),
        (Kind::Text, "text", "A text"),
        (Kind::Medicine, "medicine", "A medicine of the formulary"),
    ];

    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.iter().find(|(_, word, _)| *word == text).map(|(kind, ..)| *kind)
    }

    pub fn word(self) -> &'static str {
        Kind::ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, word, _)| *word)
    }
}

/// What decides whether an answer is one, and whether it passes.
#[derive(Clone, Debug)]
pub struct Rule {
    pub kind: Kind,
    pub weight: i32,
    pub critical: bool,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub choices: Vec<String>,
}

impl Rule {
    /// Whether `value` passes; None where the answer does not count (not applicable, left out, a text).
    ///
    /// # Errors
    /// A sentence for the person: the answer is none that this question takes.
    pub fn judge(&self, value: &str) -> Result<Option<bool>, String> {
        if value.chars().count() > 1000 || value.chars().any(|c| c.is_control() && c != '\n') {
            return Err("An answer has 1000 characters at most.".into());
        }
        if value.is_empty() {
            return Ok(None);
        }
        match self.kind {
            Kind::YesNo => match value {
                "yes" => Ok(Some(true)),
                "no" => Ok(Some(false)),
                "na" => Ok(None),
                _ => Err("The answer is yes, no or na.".into()),
            },
            Kind::Number => {
                let number = value.replace(',', ".").parse::<f64>().ok().filter(|n| n.is_finite());
                let number = number.ok_or("The answer is a number, such as 5.5.")?;
                let above = self.low.is_none_or(|low| number >= low);
                let below = self.high.is_none_or(|high| number <= high);
                let bounded = self.low.is_some() || self.high.is_some();
                Ok(bounded.then_some(above && below))
            }
            Kind::Choice => {
                let at = self.choices.iter().position(|c| c == value);
                at.map(|at| Some(at == 0)).ok_or_else(|| format!("The answer is one of: {}.", self.choices.join(", ")))
            }
            Kind::Text | Kind::Medicine => Ok(None),
        }
    }
}

/// A submission's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Score {
    pub reached: i32,
    pub possible: i32,
    /// Critical questions that failed.
    pub critical: i32,
}

impl Score {
    /// Counts one judged answer.
    pub fn count(&mut self, rule: &Rule, passed: Option<bool>) {
        let Some(passed) = passed else { return };
        self.possible += rule.weight;
        if passed {
            self.reached += rule.weight;
        } else if rule.critical {
            self.critical += 1;
        }
    }
}

/// Compliance in whole per cent, rounded down: 100 means that nothing failed.
pub fn percent(reached: i64, possible: i64) -> Option<i64> {
    (possible > 0).then(|| reached * 100 / possible)
}

/// A day such as 2026-11-23.
///
/// # Errors
/// A sentence for the person.
pub fn day(text: &str) -> Result<Date, &'static str> {
    let day: Date = text.parse().map_err(|_| "Write a day as 2026-11-23.")?;
    if (2000..=2099).contains(&day.year()) { Ok(day) } else { Err("The year lies between 2000 and 2099.") }
}

/// An e-mail address that can be one, in lower case.
pub fn email(text: &str) -> Option<String> {
    let text = text.trim().to_lowercase();
    let (user, host) = text.split_once('@')?;
    let clean = !text.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, '<' | '>' | ',' | ';' | '"'));
    (!user.is_empty() && host.contains('.') && !host.contains('@') && clean && text.len() <= 254).then_some(text)
}

/// A line of text of 1 to `most` characters.
pub fn line(text: &str, most: usize) -> Option<String> {
    let text = text.trim();
    let good = !text.is_empty() && text.chars().count() <= most && !text.chars().any(char::is_control);
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: Kind) -> Rule {
        let choices = vec!["At each bed".to_owned(), "Nowhere".to_owned()];
        Rule { kind, weight: 3, critical: true, low: Some(2.0), high: Some(8.0), choices }
    }

    #[test]
    fn an_answer_passes_by_its_question() {
        assert_eq!(rule(Kind::YesNo).judge("yes"), Ok(Some(true)));
        assert_eq!(rule(Kind::YesNo).judge("na"), Ok(None));
        assert!(rule(Kind::YesNo).judge("maybe").is_err());
        assert_eq!(rule(Kind::Number).judge("8"), Ok(Some(true)));
        assert_eq!(rule(Kind::Number).judge("8,1"), Ok(Some(false)));
        assert!(rule(Kind::Number).judge("NaN").is_err() && rule(Kind::Number).judge("warm").is_err());
        assert_eq!(rule(Kind::Choice).judge("Nowhere"), Ok(Some(false)));
        assert!(rule(Kind::Choice).judge("Elsewhere").is_err());
        assert_eq!(rule(Kind::Text).judge("anything"), Ok(None));
    }

    #[test]
    fn what_does_not_apply_counts_neither_way_and_a_failed_critical_question_is_counted() {
        let mut score = Score::default();
        let rule = rule(Kind::YesNo);
        for passed in [Some(true), None, Some(false)] {
            score.count(&rule, passed);
        }
        assert_eq!(score, Score { reached: 3, possible: 6, critical: 1 });
        assert_eq!((percent(3, 6), percent(0, 0), percent(299, 300)), (Some(50), None, Some(99)));
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_a_judgement(text in "\\PC{0,40}") {
            for (kind, ..) in Kind::ALL {
                let _ = rule(kind).judge(&text);
            }
            let _ = (email(&text), line(&text, 10), day(&text));
        }
    }
}
