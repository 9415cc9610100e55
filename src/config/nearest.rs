//! The known name that was probably meant.

/// Longer names than this are no slip of the finger.
const MAX_LENGTH: usize = 64;

/// The known name nearest to what was given, if any is near: few slips away, or one within the other.
pub(super) fn nearest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let given: Vec<char> = given.chars().flat_map(char::to_lowercase).take(MAX_LENGTH + 1).collect();
    if given.is_empty() || given.len() > MAX_LENGTH {
        return None;
    }
    let text: String = given.iter().collect();
    let mut best: Option<(usize, &str)> = None;
    for name in known {
        if name.len().abs_diff(text.len()) > MAX_LENGTH / 2 {
            continue;
        }
        let letters: Vec<char> = name.chars().take(MAX_LENGTH).collect();
        let contained = text.len() > 2 && name.len() > 2 && (name.contains(&text) || text.contains(name));
        let slips = distance(&given, &letters);
        let near = slips <= (given.len().max(letters.len()) / 3).max(2) && slips < letters.len();
        if (near || contained) && best.is_none_or(|(least, _)| slips < least) {
            best = Some((slips, name));
        }
    }
    best.map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_the_name_that_was_meant() {
        let known = ["workers", "drain_timeout", "drain_delay", "access_log"];
        for (given, meant) in [
            ("worker", Some("workers")),
            ("wrokers", Some("workers")),
            ("Workers", Some("workers")),
            ("drain_timout", Some("drain_timeout")),
            ("drian_deley", Some("drain_delay")),
            ("log", Some("access_log")),
            ("color", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, known), meant, "{given}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }
}
