//! "Did you mean".

use crate::diagnostic::Diagnostic;

/// The known word nearest to `word`, if one is near enough to be meant.
pub(crate) fn nearest<'w>(word: &str, known: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|w| (distance(&word.to_lowercase(), &w.to_lowercase()), w))
        .filter(|(d, w)| {
            *d <= limit || (word.len() >= 3 && (w.starts_with(word) || word.starts_with(w)) && w.len() >= 3)
        })
        .min_by_key(|(d, w)| (*d, w.len().abs_diff(word.len())))
        .map(|(_, w)| w)
}

/// `fault` with the nearest known word as its hint, if there is one.
pub(crate) fn hint<'w>(fault: Diagnostic, word: &str, known: impl IntoIterator<Item = &'w str>) -> Diagnostic {
    match nearest(word, known) {
        Some(near) => fault.hint(format!("did you mean `{near}`?")),
        None => fault,
    }
}

/// Letters to change, add, take out or swap with their neighbour (optimal string alignment). Long words are cut: nobody
/// means a word of 64 letters by a typo.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let b: Vec<char> = b.chars().take(64).collect();
    let mut rows = [vec![0; b.len() + 1], (0..=b.len()).collect::<Vec<_>>(), vec![0; b.len() + 1]];
    for i in 1..=a.len() {
        rows[2][0] = i;
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[1][j] + 1).min(rows[2][j - 1] + 1).min(rows[1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[0][j - 2] + 1);
            }
            rows[2][j] = best;
        }
        rows.rotate_left(1);
    }
    rows[1][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_find_their_word_and_strangers_do_not() {
        let known = ["image", "port", "health", "subnet", "needs"];
        assert_eq!(nearest("imgae", known), Some("image"));
        assert_eq!(nearest("helth", known), Some("health"));
        assert_eq!(nearest("Port", known), Some("port"));
        assert_eq!(nearest("sub", known), Some("subnet"));
        assert_eq!(nearest("quota", known), None);
        assert_eq!(nearest("", known), None);
    }
}
