//! Finding a class by what a person types.

use maskgit_bundle::Manifest;
use maskgit_core::{Error, Result};

/// How many names an error lists.
const SUGGESTIONS: usize = 5;

/// Finds a class of a model: by its exact name, by its index, by its name or its id (see
/// [`Manifest::label_ids`]) in any case, or by an unambiguous beginning of its name.
///
/// # Errors
///
/// Kind [`Request`](maskgit_core::ErrorKind::Request): no class fits (the names nearest to it are listed), or several
/// do.
pub fn find_label(manifest: &Manifest, text: &str) -> Result<usize> {
    let labels = &manifest.labels;
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
    let ids = manifest.label_ids.as_deref().unwrap_or_default();
    if exact.is_empty()
        && let Some(index) = ids.iter().position(|id| id.to_lowercase() == wanted)
    {
        return Ok(index);
    }
    let begins: Vec<usize> = matching(&folded, |name| !wanted.is_empty() && name.starts_with(&wanted));
    match (exact.as_slice(), begins.as_slice()) {
        (&[index], _) | (&[], &[index]) => Ok(index),
        (&[], &[]) => Err(Error::request(match nearest(&folded, &wanted).as_slice() {
            [] => format!("there is no class '{text}' among the model's {}", labels.len()),
            near => format!(
                "there is no class '{text}' among the model's {}: did you mean {}?",
                labels.len(),
                list(labels, near)
            ),
        })),
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

/// The indices of the names near `wanted`, nearest first, at most three. A name that contains it is nearer than any
/// other; else at most a third of its letters may differ.
fn nearest(names: &[String], wanted: &str) -> Vec<usize> {
    let most = wanted.chars().count().div_ceil(3);
    let mut order: Vec<(usize, usize)> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            let inside = !wanted.is_empty() && name.contains(wanted);
            (if inside { 0 } else { edit_distance(name, wanted) }, i)
        })
        .filter(|(distance, _)| *distance <= most)
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

    fn manifest() -> Manifest {
        let graph = |name: &str| serde_json::json!({ "file": name, "bytes": 1, "sha256": "0".repeat(64) });
        let json = serde_json::json!({
            "format_version": 1, "name": "birds", "licence": "CC0-1.0", "source": "", "image": { "height": 4, "width": 4 },
            "grid": { "rows": 1, "cols": 1 }, "codes": 2, "mask_id": 2,
            "labels": ["lorelei", "bigEars", "bigSmile", "micah", "10", "Micah Two", "crane (bird)", "crane (machine)", "N03"],
            "label_ids": ["n00", "n01", "n02", "n03", "n04", "n05", "n06", "N07", "n08"],
            "precision": "fp32",
            "sampling": { "steps": 1, "schedule": "cosine", "sampler": "confidence", "choice_temperature": 0,
                          "temperature": 1, "guidance": 0, "guidance_ramp": false },
            "graphs": { "transformer": graph("t"), "decoder": graph("d") },
        });
        Manifest::parse(json.to_string().as_bytes()).expect("a valid manifest")
    }

    #[test]
    fn finds_by_name_index_case_id_and_prefix() {
        let manifest = manifest();
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
            ("n02", 2),
            ("N06", 6),
            ("n07", 7),
            ("n03", 8), // a class's name comes before another's id
            ("crane (m", 7),
            ("n0", 8), // only names are found by their beginning
        ] {
            assert_eq!(find_label(&manifest, text).ok(), Some(index), "{text}");
        }
        let mut plain = manifest;
        plain.label_ids = None;
        assert!(find_label(&plain, "n02").is_err());
    }

    #[test]
    fn errors_name_the_candidates() {
        let manifest = manifest();
        for (text, expected) in [
            ("lorelie", "did you mean lorelei"),
            ("ears", "did you mean bigEars"),
            ("big", "ambiguous: it may be bigEars, bigSmile"),
            ("crane", "ambiguous: it may be crane (bird), crane (machine)"),
            ("n0x", "there is no class 'n0x'"),
            ("9", "9 classes, 0 to 8"),
            ("99999999999999999999999999", "9 classes, 0 to 8"),
            ("", "there is no class ''"),
        ] {
            let message = match find_label(&manifest, text) {
                Err(error) => error.to_string(),
                Ok(index) => panic!("{text} found {index}"),
            };
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
