//! Personal data in a prompt, found by rules before anything is queued.
//!
//! Patterns with a check digit (cards, tax file numbers, business numbers, Medicare) are sure; names and places are found by
//! their company (a title, a street word), since no language model runs here. README.md says what that misses.

use serde::{Deserialize, Serialize};

/// What is found with a score above this is a refusal.
pub const THRESHOLD: f64 = 0.75;

/// One find. The text itself is never kept: only where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: String,
    pub score: f64,
    /// Characters from the beginning, and how many.
    pub start: usize,
    pub length: usize,
}

/// Everything found, in order.
pub fn scan(text: &str) -> Vec<Finding> {
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    emails(&chars, &mut found);
    numbers(&chars, &mut found);
    words(&chars, &mut found);
    found.sort_by(|a, b| a.start.cmp(&b.start).then(b.score.total_cmp(&a.score)));
    found
}

/// The finds that refuse a prompt.
pub fn refusing(found: &[Finding]) -> Vec<&Finding> {
    found.iter().filter(|f| f.score > THRESHOLD).collect()
}

fn add(found: &mut Vec<Finding>, kind: &str, score: f64, start: usize, length: usize) {
    found.push(Finding { kind: kind.to_owned(), score, start, length });
}

fn emails(chars: &[char], found: &mut Vec<Finding>) {
    let local = |c: char| c.is_alphanumeric() || "._%+-".contains(c);
    let host = |c: char| c.is_alphanumeric() || c == '-' || c == '.';
    for (at, _) in chars.iter().enumerate().filter(|(_, c)| **c == '@') {
        let start = at - chars[..at].iter().rev().take_while(|c| local(**c)).count();
        let end = at + 1 + chars[at + 1..].iter().take_while(|c| host(**c)).count();
        let domain: String = chars[at + 1..end].iter().collect();
        let domain = domain.trim_end_matches(['.', '-']);
        let dotted = domain
            .rsplit_once('.')
            .is_some_and(|(a, b)| !a.is_empty() && b.len() >= 2 && b.chars().all(char::is_alphabetic));
        if start < at && dotted {
            add(found, "EMAIL", 1.0, start, at + 1 + domain.chars().count() - start);
        }
    }
}

/// Runs of digits with single spaces, hyphens, dots or brackets between them.
fn numbers(chars: &[char], found: &mut Vec<Finding>) {
    let mut at = 0;
    while at < chars.len() {
        let begins = chars[at].is_ascii_digit()
            || (chars[at] == '+' && chars.get(at + 1).is_some_and(char::is_ascii_digit))
            || (chars[at] == '(' && chars.get(at + 1).is_some_and(char::is_ascii_digit));
        let inside = at > 0 && chars[at - 1].is_alphanumeric();
        if !begins || inside {
            at += 1;
            continue;
        }
        let (mut end, mut last) = (at, at);
        while end < chars.len() {
            let c = chars[end];
            if c.is_ascii_digit() {
                last = end;
            } else if !(" -.()+/".contains(c) && end - last <= 2) {
                break;
            }
            end += 1;
        }
        let text: String = chars[at..=last].iter().collect();
        if let Some((kind, score)) = number(&text) {
            add(found, kind, score, at, last + 1 - at);
        }
        at = last + 1;
    }
}

/// What a run of digits is, the surest first.
fn number(text: &str) -> Option<(&'static str, f64)> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let count = digits.len();
    if text.matches('.').count() == 3 && text.chars().all(|c| c.is_ascii_digit() || c == '.') {
        let parts: Vec<&str> = text.split('.').collect();
        return parts.iter().all(|p| p.parse::<u8>().is_ok()).then_some(("IP_ADDRESS", 0.85));
    }
    if (13..=19).contains(&count) && luhn(&digits) {
        return Some(("CREDIT_CARD", 1.0));
    }
    if count == 11 && abn(&digits) {
        return Some(("AU_ABN", 0.95));
    }
    // A phone number says so by its beginning, and must win over numbers whose check digits happen to fit.
    let plus = text.starts_with('+');
    if plus && (9..=15).contains(&count) {
        return Some(("PHONE", 0.9));
    }
    if digits.first() == Some(&0) && count == 10 && [2, 3, 4, 7, 8].contains(&digits[1]) {
        return Some(("PHONE", 0.9));
    }
    if count == 10 && [1300, 1800].contains(&(digits[..4].iter().fold(0, |n, d| n * 10 + d))) {
        return Some(("PHONE", 0.6));
    }
    if (10..=11).contains(&count) && medicare(&digits) {
        return Some(("AU_MEDICARE", 0.9));
    }
    if count == 9 && weighed(&digits, &[1, 4, 3, 7, 5, 8, 6, 9, 10]).is_multiple_of(11) {
        return Some(("AU_TFN", 0.9));
    }
    None
}

fn weighed(digits: &[u32], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(d, w)| d * w).sum()
}

fn luhn(digits: &[u32]) -> bool {
    let doubled = |d: u32| if d * 2 > 9 { d * 2 - 9 } else { d * 2 };
    let sum: u32 = digits.iter().rev().enumerate().map(|(i, d)| if i % 2 == 1 { doubled(*d) } else { *d }).sum();
    sum.is_multiple_of(10) && digits.iter().any(|d| *d != digits[0])
}

fn abn(digits: &[u32]) -> bool {
    let mut less = digits.to_vec();
    if less[0] == 0 {
        return false;
    }
    less[0] -= 1;
    weighed(&less, &[10, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19]).is_multiple_of(89)
}

fn medicare(digits: &[u32]) -> bool {
    (2..=6).contains(&digits[0]) && weighed(digits, &[1, 3, 7, 9, 1, 3, 7, 9]) % 10 == digits[8]
}

const TITLES: [&str; 10] = ["mr", "mrs", "ms", "miss", "dr", "prof", "professor", "sir", "dame", "mx"];
const STREETS: [&str; 16] = [
    "street",
    "st",
    "road",
    "rd",
    "avenue",
    "ave",
    "lane",
    "drive",
    "crescent",
    "court",
    "place",
    "parade",
    "terrace",
    "highway",
    "boulevard",
    "close",
];
const NAMED: [&str; 5] = ["named", "called", "surnamed", "name", "patient"];

fn capital(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(char::is_uppercase) && letters.next().is_some_and(char::is_lowercase)
}

/// Names after a title or the word `named`, and addresses: a number, a name, a street word.
fn words(chars: &[char], found: &mut Vec<Finding>) {
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut start = 0;
    for at in 0..=chars.len() {
        let ends = chars.get(at).is_none_or(|c| !(c.is_alphanumeric() || *c == '\'' || *c == '-' || *c == '/'));
        if ends {
            if at > start {
                all.push((start, chars[start..at].iter().collect()));
            }
            start = at + 1;
        }
    }
    let lower: Vec<String> = all.iter().map(|(_, w)| w.to_lowercase()).collect();
    let word = |i: usize| all.get(i).map(|(_, w)| w.as_str());
    let end = |i: usize| all[i].0 + all[i].1.chars().count();
    for i in 0..all.len() {
        let two = word(i + 1).is_some_and(capital) && word(i + 2).is_some_and(capital);
        if TITLES.contains(&lower[i].as_str()) && capital(&all[i].1) && word(i + 1).is_some_and(capital) {
            let last = if two { i + 2 } else { i + 1 };
            add(found, "PERSON", 0.85, all[i].0, end(last) - all[i].0);
        } else if NAMED.contains(&lower[i].as_str()) && two {
            add(found, "PERSON", 0.8, all[i + 1].0, end(i + 2) - all[i + 1].0);
        }
        let number = all[i].1.chars().next().is_some_and(|c| c.is_ascii_digit()) && all[i].1.len() <= 8;
        if number {
            let street = (i + 2..i + 4).find(|j| lower.get(*j).is_some_and(|w| STREETS.contains(&w.as_str())));
            if let Some(street) = street.filter(|s| (i + 1..*s).all(|j| word(j).is_some_and(capital))) {
                add(found, "LOCATION", 0.85, all[i].0, end(street) - all[i].0);
            }
        }
        if (lower[i] == "passport" || lower[i] == "licence")
            && lower.get(i + 1).is_some_and(|w| w.len() >= 7 && w.chars().filter(char::is_ascii_digit).count() >= 6)
        {
            add(found, "AU_DOCUMENT", 0.85, all[i + 1].0, all[i + 1].1.chars().count());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<String> {
        refusing(&scan(text)).iter().map(|f| f.kind.clone()).collect()
    }

    #[test]
    fn what_is_personal_is_found() {
        for (text, kind) in [
            ("a card for ann.archer@harbour.example, please", "EMAIL"),
            ("call me on 0412 345 678", "PHONE"),
            ("poster with +61 2 9374 4000 on it", "PHONE"),
            ("a card 4111 1111 1111 1111 on a table", "CREDIT_CARD"),
            ("TFN 123 456 782 in neon", "AU_TFN"),
            ("sign with ABN 51 824 753 556", "AU_ABN"),
            ("Medicare 2123 45670 1 card", "AU_MEDICARE"),
            ("portrait of Dr Ann Archer", "PERSON"),
            ("a man named John Citizen at sea", "PERSON"),
            ("the house at 12 Harbour Street", "LOCATION"),
            ("a server at 10.20.30.40", "IP_ADDRESS"),
            ("passport N1234567 on a desk", "AU_DOCUMENT"),
        ] {
            assert_eq!(kinds(text), [kind], "{text}");
        }
    }

    #[test]
    fn what_is_not_personal_is_let_through() {
        for text in [
            "a red boat at 5 o'clock in the harbour, 35mm, f/1.8",
            "1000000 sparks over 12 wide streets",
            "a robot named bolt, 8k, 1920x1080",
            "year 2026-11-23, sunrise",
            "4111 1111 1111 1112 is no card",
            "two people @ the beach",
        ] {
            assert!(kinds(text).is_empty(), "{text}: {:?}", scan(text));
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_scanned_and_finds_lie_within_it(text in "\\PC{0,120}") {
            let length = text.chars().count();
            for f in scan(&text) {
                proptest::prop_assert!(f.start + f.length <= length && f.length > 0, "{f:?}");
            }
        }

        #[test]
        fn an_address_is_found_wherever_it_stands(before in "[a-z ]{0,20}", after in "[a-z ]{0,20}") {
            let kinds = kinds(&format!("{before} x.y@mail.example {after}"));
            proptest::prop_assert!(kinds.contains(&"EMAIL".to_owned()));
        }
    }
}
