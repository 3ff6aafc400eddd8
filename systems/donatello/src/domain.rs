//! The words of the application: roles, what may be asked for, money.

use serde::{Deserialize, Serialize};

pub use sdk::fault::FieldErrors;

/// What a person is. Later ones may do what earlier ones may, each in a wider circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    StandardUser,
    PowerUser,
    DeptManager,
    OrgAdmin,
    SuperAdmin,
}

impl Role {
    pub const ALL: [Role; 5] =
        [Role::StandardUser, Role::PowerUser, Role::DeptManager, Role::OrgAdmin, Role::SuperAdmin];

    /// As the database and the API write it.
    pub fn word(self) -> &'static str {
        match self {
            Role::StandardUser => "standard_user",
            Role::PowerUser => "power_user",
            Role::DeptManager => "dept_manager",
            Role::OrgAdmin => "org_admin",
            Role::SuperAdmin => "super_admin",
        }
    }

    /// As a page shows it.
    pub fn title(self) -> &'static str {
        match self {
            Role::StandardUser => "Standard user",
            Role::PowerUser => "Power user",
            Role::DeptManager => "Department manager",
            Role::OrgAdmin => "Organisation admin",
            Role::SuperAdmin => "Super admin",
        }
    }

    pub fn parse(word: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|r| r.word() == word)
    }

    /// The widest role among the directory's groups, which are called like the roles with hyphens.
    pub fn of_groups(groups: &[String]) -> Option<Role> {
        Role::ALL.into_iter().rev().find(|r| groups.iter().any(|g| g.replace('-', "_") == r.word()))
    }

    /// Prompts a minute: a standard user is limited, the others only against accidents.
    pub fn prompts_a_minute(self) -> i64 {
        if self == Role::StandardUser { 10 } else { 600 }
    }
}

/// What a person may choose about an image, beside the prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// A model's id, or `auto`.
    pub model: String,
    /// `1024x1024`, `1024x1792` or `1792x1024`.
    pub resolution: String,
    /// low, medium or high: what the router must reach.
    pub required_quality: String,
    /// `vivid` or `natural`.
    pub style: String,
    pub commercial_use: bool,
    /// The most an image may cost, in cents.
    pub max_cost_cents: Option<i64>,
    /// The least service level, per cent times a hundred (9950 is 99.5).
    pub required_sla: Option<i64>,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish {
            model: "auto".into(),
            resolution: "1024x1024".into(),
            required_quality: "medium".into(),
            style: "vivid".into(),
            commercial_use: true,
            max_cost_cents: None,
            required_sla: None,
        }
    }
}

pub const RESOLUTIONS: [&str; 3] = ["1024x1024", "1024x1792", "1792x1024"];
pub const QUALITIES: [&str; 3] = ["low", "medium", "high"];
pub const STYLES: [&str; 2] = ["vivid", "natural"];
/// What a generation may be.
pub const STATUSES: [&str; 5] = ["completed", "processing", "pending", "failed", "cancelled"];
/// Characters of a prompt.
pub const PROMPT: usize = 2000;

impl Wish {
    /// Width and height.
    pub fn size(&self) -> (u32, u32) {
        let (w, h) = self.resolution.split_once('x').unwrap_or(("1024", "1024"));
        (w.parse().unwrap_or(1024), h.parse().unwrap_or(1024))
    }

    /// What is wrong with it.
    pub fn check(&self, errors: &mut FieldErrors) {
        if !RESOLUTIONS.contains(&self.resolution.as_str()) {
            errors.add("resolution", "Choose 1024x1024, 1024x1792 or 1792x1024.");
        }
        if !QUALITIES.contains(&self.required_quality.as_str()) {
            errors.add("required_quality", "Choose low, medium or high.");
        }
        if !STYLES.contains(&self.style.as_str()) {
            errors.add("style", "Choose vivid or natural.");
        }
        let id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.model.is_empty() || self.model.len() > 50 || !self.model.chars().all(id) {
            errors.add("model_provider", "Choose a model of the list, or auto.");
        }
        if self.max_cost_cents.is_some_and(|c| !(0..=100_000).contains(&c)) {
            errors.add("max_cost_aud", "The most an image may cost is 0 to 1000 AUD.");
        }
        if self.required_sla.is_some_and(|s| !(9900..=9999).contains(&s)) {
            errors.add("required_sla", "The service level is 99.0 to 99.99.");
        }
    }
}

/// A prompt made clean: trimmed, control characters gone, runs of white space one space. None when nothing is left or it is
/// too long.
pub fn clean_prompt(text: &str) -> Option<String> {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Invisible marks that turn the reading direction or hide text have no business in a prompt.
    let hidden = |c: &char| !matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let visible: String = spaced.chars().filter(hidden).collect();
    let words: Vec<&str> = visible.split_whitespace().collect();
    let clean = words.join(" ");
    let length = clean.chars().count();
    (3..=PROMPT).contains(&length).then_some(clean)
}

/// Cents as dollars with two decimals.
pub fn aud(cents: i64) -> String {
    format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100)
}

/// Dollars with at most two decimals as cents.
pub fn cents(text: &str) -> Option<i64> {
    let text = text.trim();
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str, most: usize| t.len() <= most && t.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !digits(whole, 8) || !digits(part, 2) {
        return None;
    }
    let part: i64 = format!("{part:0<2}").parse().ok()?;
    Some(whole.parse::<i64>().ok()? * 100 + part)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;

    #[test]
    fn the_widest_group_gives_the_role() {
        let groups = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(Role::of_groups(&groups(&["standard-user", "org-admin"])), Some(Role::OrgAdmin));
        assert_eq!(Role::of_groups(&groups(&["power-user"])), Some(Role::PowerUser));
        assert_eq!(Role::of_groups(&groups(&["cleaner"])), None);
    }

    #[test]
    fn a_prompt_is_made_clean_or_refused() {
        assert_eq!(clean_prompt("  a\u{202e} red\n\tboat ").as_deref(), Some("a red boat"));
        assert_eq!(clean_prompt("\u{200b}\u{200b} \n"), None);
        assert_eq!(clean_prompt(&"x".repeat(PROMPT + 1)), None);
    }

    #[test]
    fn money_is_read_and_written_to_the_cent() {
        assert_eq!((cents("12.5"), cents("0.06"), cents("7")), (Some(1250), Some(6), Some(700)));
        assert_eq!((cents("1.234"), cents("-1"), cents("x"), cents("")), (None, None, None, None));
        assert_eq!(aud(1250), "12.50");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_clean_prompt_or_none(text in ".*") {
            if let Some(clean) = clean_prompt(&text) {
                proptest::prop_assert!(!clean.chars().any(char::is_control) && clean.chars().count() <= PROMPT);
                let again = clean_prompt(&clean);
                proptest::prop_assert_eq!(again.as_deref(), Some(clean.as_str()));
            }
        }

        #[test]
        fn cents_read_back_what_aud_writes(c in 0_i64..10_000_000) {
            proptest::prop_assert_eq!(cents(&aud(c)), Some(c));
        }
    }
}
