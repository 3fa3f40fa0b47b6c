//! Changes inside a document, as a partial update of MySQL logs them.

use super::{Node, Parser, Step};

/// What is done at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Edit {
    /// The value that is there becomes another one.
    Replace(String),
    /// A member is added, or a cell before the one at the path.
    Insert(String),
    /// The value that is there goes away.
    Remove,
}

/// The document with one change. Both texts are marked. `None` where the path doesn't fit the document.
pub(crate) fn edited(text: &str, path: &str, edit: &Edit) -> Option<String> {
    let nodes = Parser::parse(text)?;
    let legs = legs(path)?;
    match edit {
        Edit::Replace(value) => {
            let node = nodes.get(find(text, &nodes, &legs)?)?;
            Some(format!("{}{value}{}", text.get(..node.start)?, text.get(node.end..)?))
        }
        Edit::Remove => {
            let at = find(text, &nodes, &legs)?;
            let parent = nodes.get(nodes.get(at)?.parent?)?;
            let kept = parent.children.iter().filter(|child| **child != at);
            let parts: Option<Vec<String>> = kept.map(|child| part(text, nodes.get(*child)?)).collect();
            Some(rebuilt(text, parent, &parts?)?)
        }
        Edit::Insert(value) => {
            let (last, before) = legs.split_last()?;
            let parent = nodes.get(find(text, &nodes, before)?)?;
            let parts: Option<Vec<String>> =
                parent.children.iter().map(|child| part(text, nodes.get(*child)?)).collect();
            let mut parts = parts?;
            match (last, parent.array) {
                (Leg::Cell(index), Some(true)) => parts.insert((*index).min(parts.len()), value.clone()),
                (Leg::Member(key), Some(false)) => {
                    parts.push(format!("{}: {value}", serde_json::to_string(key).ok()?));
                }
                _ => return None,
            }
            Some(rebuilt(text, parent, &parts)?)
        }
    }
}

/// A value as it stands in its container, behind its key in an object.
fn part(text: &str, node: &Node) -> Option<String> {
    let value = text.get(node.start..node.end)?;
    Some(match node.step {
        Step::Key(start, end) => format!("{}: {value}", text.get(start..end)?),
        Step::Cell(_) => value.to_owned(),
    })
}

fn rebuilt(text: &str, container: &Node, parts: &[String]) -> Option<String> {
    let (open, close) = if container.array? { ('[', ']') } else { ('{', '}') };
    let inner = parts.join(", ");
    Some(format!("{}{open}{inner}{close}{}", text.get(..container.start)?, text.get(container.end..)?))
}

#[derive(Debug, PartialEq, Eq)]
enum Leg {
    Member(String),
    Cell(usize),
}

/// `$.a."b c"[3]`
fn legs(path: &str) -> Option<Vec<Leg>> {
    let mut rest = path.strip_prefix('$')?;
    let mut legs = Vec::new();
    while !rest.is_empty() {
        if let Some(cell) = rest.strip_prefix('[') {
            let (number, behind) = cell.split_once(']')?;
            legs.push(Leg::Cell(number.trim().parse().ok()?));
            rest = behind;
            continue;
        }
        rest = rest.strip_prefix('.')?;
        let end = if rest.starts_with('"') {
            let mut escaped = false;
            let close = rest.char_indices().skip(1).find(|(_, c)| {
                let closes = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                closes
            });
            close?.0 + 1
        } else {
            rest.find(['.', '[']).unwrap_or(rest.len())
        };
        let (key, behind) = rest.split_at_checked(end)?;
        let key = if key.starts_with('"') { serde_json::from_str(key).ok()? } else { key.to_owned() };
        legs.push(Leg::Member(key));
        rest = behind;
    }
    Some(legs)
}

fn find(text: &str, nodes: &[Node], legs: &[Leg]) -> Option<usize> {
    let mut at = 0;
    for leg in legs {
        let node = nodes.get(at)?;
        at = match (leg, node.array) {
            (Leg::Cell(index), Some(true)) => *node.children.get(*index)?,
            // A value that is no array is its own first cell.
            (Leg::Cell(0), _) => at,
            (Leg::Member(key), Some(false)) => {
                let is_it = |child: &&usize| match nodes.get(**child).map(|node| node.step) {
                    Some(Step::Key(start, end)) => {
                        let own =
                            text.get(start..end).and_then(|own| serde_json::from_str::<String>(own).ok());
                        own.as_ref() == Some(key)
                    }
                    _ => false,
                };
                *node.children.iter().find(is_it)?
            }
            _ => return None,
        };
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_are_edited_in_place() {
        let check = |text: &str, path: &str, edit: Edit, expected: Option<&str>| {
            assert_eq!(edited(text, path, &edit).as_deref(), expected, "{path}");
        };
        let to = |value: &str| Edit::Replace(value.to_owned());
        let add = |value: &str| Edit::Insert(value.to_owned());
        let doc = r#"{"a": [1, {"b c": "x"}], "ü": null}"#;
        check(doc, "$.a[0]", to("2"), Some(r#"{"a": [2, {"b c": "x"}], "ü": null}"#));
        check(doc, r#"$.a[1]."b c""#, to("[]"), Some(r#"{"a": [1, {"b c": []}], "ü": null}"#));
        check(doc, r#"$."\u00fc""#, Edit::Remove, Some(r#"{"a": [1, {"b c": "x"}]}"#));
        check(doc, "$.a[0]", Edit::Remove, Some(r#"{"a": [{"b c": "x"}], "ü": null}"#));
        check(doc, "$.a[1]", add("7"), Some(r#"{"a": [1, 7, {"b c": "x"}], "ü": null}"#));
        check(doc, "$.a[2]", add("7"), Some(r#"{"a": [1, {"b c": "x"}, 7], "ü": null}"#));
        check(doc, r#"$.a[1]."new\"""#, add("7"), Some(r#"{"a": [1, {"b c": "x", "new\"": 7}], "ü": null}"#));
        check("1", "$", to("[2]"), Some("[2]"));
        check(doc, "$.nothing", to("1"), None);
        check(doc, "$.a.b", add("1"), None);
        check(doc, "$.a[9]", Edit::Remove, None);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in "[\\[\\]{}\",:1.a\\\\ ]{0,30}", path in "[$.\"a\\[\\]0-9\\\\]{0,20}") {
            for edit in [Edit::Remove, Edit::Replace("1".to_owned()), Edit::Insert("1".to_owned())] {
                drop(edited(&text, &path, &edit));
                drop(edited(&text, &format!("${path}"), &edit));
            }
        }
    }
}
