//! Finding a class by what a person types.

use crate::error::{Error, Result};

/// How many names an error lists.
const SUGGESTIONS: usize = 5;

/// Finds a class: by its exact name, by its index, by its name in another case, or by an unambiguous beginning of it.
///
/// # Errors
///
/// Kind [`Request`](crate::ErrorKind::Request): no class fits (the names nearest to it are listed), or several do.
pub fn find_label(labels: &[String], text: &str) -> Result<usize> {
    if let Some(index) = labels.iter().position(|name| name == text) {
        return Ok(index);
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return match text.parse::<usize>() {
            Ok(index) if index < labels.len() => Ok(index),
            _ => Err(Error::request(format!(
                "there is no class {text}: the model has {} classes, 0 to {}",
                labels.len(),
                labels.len().saturating_sub(1)
            ))),
        };
    }
    let wanted = text.to_lowercase();
    let folded: Vec<String> = labels.iter().map(|name| name.to_lowercase()).collect();
    let exact: Vec<usize> = matching(&folded, |name| name == wanted);
    let begins: Vec<usize> = matching(&folded, |name| !wanted.is_empty() && name.starts_with(&wanted));
    match (exact.as_slice(), begins.as_slice()) {
        (&[index], _) | (&[], &[index]) => Ok(index),
        (&[], &[]) => Err(Error::request(format!(
            "there is no class '{text}': did you mean {}? The command 'info --labels' lists all {}",
            list(labels, &nearest(&folded, &wanted)),
            labels.len()
        ))),
        (&[], many) | (many, _) => Err(Error::request(format!(
            "the class '{text}' is ambiguous: it may be {}{}; type more of the name, or its index",
            list(labels, many),
            if many.len() > SUGGESTIONS { " or another" } else { "" }
        ))),
    }
}

fn matching(names: &[String], fits: impl Fn(&str) -> bool) -> Vec<usize> {
    names.iter().enumerate().filter(|(_, name)| fits(name)).map(|(i, _)| i).collect()
}

fn list(labels: &[String], indices: &[usize]) -> String {
    let names: Vec<&str> =
        indices.iter().take(SUGGESTIONS).filter_map(|&i| labels.get(i)).map(String::as_str).collect();
    names.join(", ")
}

/// The indices of the names nearest to `wanted`, nearest first. A name that contains it is nearer than any other.
fn nearest(names: &[String], wanted: &str) -> Vec<usize> {
    let mut order: Vec<(usize, usize)> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let inside = !wanted.is_empty() && name.contains(wanted);
            (if inside { 0 } else { edit_distance(name, wanted) }, i)
        })
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, i)| i).take(3).collect()
}

/// Levenshtein's distance over the first 64 characters of each.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut next = vec![i + 1];
        let mut left = i + 1;
        for (pair, y) in row.windows(2).zip(&b) {
            let &[diagonal, up] = pair else { continue };
            left = (diagonal + usize::from(x != *y)).min(up + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<String> {
        ["lorelei", "bigEars", "bigSmile", "micah", "10", "Micah Two"].map(String::from).to_vec()
    }

    #[test]
    fn finds_by_name_index_case_and_prefix() {
        let labels = labels();
        for (text, index) in [
            ("lorelei", 0),
            ("LORELEI", 0),
            ("lor", 0),
            ("bigears", 1),
            ("bigE", 1),
            ("3", 3),
            ("10", 4), // a class's own name comes before the index
            ("micah", 3),
            ("micah t", 5),
        ] {
            assert_eq!(find_label(&labels, text).ok(), Some(index), "{text}");
        }
    }

    #[test]
    fn errors_name_the_candidates() {
        let labels = labels();
        for (text, expected) in [
            ("lorelie", "did you mean lorelei"),
            ("ears", "did you mean bigEars"),
            ("big", "ambiguous: it may be bigEars, bigSmile"),
            ("6", "6 classes, 0 to 5"),
            ("99999999999999999999999999", "6 classes, 0 to 5"),
            ("", "there is no class ''"),
        ] {
            let message = find_label(&labels, text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn edit_distance_is_levenshteins() {
        for (a, b, d) in [("", "", 0), ("abc", "abc", 0), ("kitten", "sitting", 3), ("", "ab", 2), ("ab", "", 2)] {
            assert_eq!(edit_distance(a, b), d, "{a} {b}");
        }
    }
}
