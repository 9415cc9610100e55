//! Environment variables in string values: `${NAME}`, `${NAME:-default}`, and `$${` for a literal `${`.

use std::fmt;

/// Why a string cannot be expanded. Displayed with what is accepted; never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExpandError {
    /// Not in the environment, and no default.
    Unset(String),
    /// `${` without its `}`.
    Unclosed,
    /// What stands in the braces names no variable.
    BadName,
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset(name) => {
                write!(f, "the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
            }
            Self::Unclosed => f.write_str(
                "\"${\" is not closed; accepted: ${NAME}, ${NAME:-default}, and $${ for a literal \"${\"",
            ),
            Self::BadName => f.write_str(
                "what stands in \"${…}\" names no environment variable; accepted: ${NAME}, ${NAME:-default} \
                 (NAME of letters, digits and _), and $${ for a literal \"${\"",
            ),
        }
    }
}

/// Expands a string once: what a variable holds is never looked at again.
pub(super) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let (reference, after) = after.split_once('}').ok_or(ExpandError::Unclosed)?;
            out.push_str(&resolve(reference, env)?);
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn resolve(reference: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandError> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !is_name {
        return Err(ExpandError::BadName);
    }
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(ExpandError::Unset(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("zk1".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICKY" => Some("${HOST} \" = [".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_expanded_once_and_defaults_cover_empty_ones() {
        for (text, expanded) in [
            ("", ""),
            ("plain $ and $x $$ }", "plain $ and $x $$ }"),
            ("${HOST}:2181", "zk1:2181"),
            ("a${HOST}b${HOST}", "azk1bzk1"),
            ("${NONE:-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY}", ""),
            ("${NONE:-}", ""),
            ("${HOST:-x}", "zk1"),
            ("${TRICKY}", "${HOST} \" = ["),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("${NONE:-a:-b}", "a:-b"),
        ] {
            assert_eq!(expand(text, &env).as_deref(), Ok(expanded), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_is_an_error() {
        for (text, error) in [
            ("${NONE}", ExpandError::Unset("NONE".to_owned())),
            ("x${HOST", ExpandError::Unclosed),
            ("${}", ExpandError::BadName),
            ("${:-x}", ExpandError::BadName),
            ("${1A}", ExpandError::BadName),
            ("${A B}", ExpandError::BadName),
        ] {
            assert_eq!(expand(text, &env), Err(error), "{text}");
        }
    }
}
