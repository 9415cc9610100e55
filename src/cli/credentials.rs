//! What commands show to an ensemble.

use std::fmt;

use clap::Args;

/// Credentials of the commands that open a session of their own.
#[derive(Debug, Args)]
pub struct AuthArgs {
    /// Shown to the ensemble; other users see a command line, so the variable is the better place
    #[arg(
        long,
        value_name = "SCHEME:CREDENTIALS",
        env = "ZOOGATE_AUTH",
        hide_env_values = true,
        value_parser = Credentials::parse
    )]
    pub auth: Option<Credentials>,
}

/// A scheme and what it takes: `digest` and `user:password`. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    scheme: String,
    bytes: Vec<u8>,
}

impl AuthArgs {
    /// As sessions take them.
    pub(super) fn list(&self) -> Vec<(String, Vec<u8>)> {
        self.auth.iter().map(|shown| (shown.scheme.clone(), shown.bytes.clone())).collect()
    }
}

impl Credentials {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            // The server would close every connection over these.
            Some(("digest", rest)) if !rest.contains(':') => {
                Err("digest takes a user and a password; accepted: digest:USER:PASSWORD".to_owned())
            }
            Some((scheme, rest)) if !scheme.is_empty() && !rest.is_empty() => {
                Ok(Self { scheme: scheme.to_owned(), bytes: rest.as_bytes().to_vec() })
            }
            _ => Err("accepted: a scheme and its credentials, such as digest:USER:PASSWORD".to_owned()),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:…", self.scheme)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_whole_and_never_shown() {
        let read = Credentials::parse("digest:user:pass:word").unwrap();
        assert_eq!((read.scheme.as_str(), read.bytes.as_slice()), ("digest", &b"user:pass:word"[..]));
        assert_eq!(format!("{read:?}"), "digest:…");
        assert!(Credentials::parse("x509:CN=a").is_ok());
        for bad in ["", "digest", "digest:", "digest:user", ":user:password"] {
            let error = Credentials::parse(bad).unwrap_err();
            assert!(error.contains("accepted: "), "{bad}: {error}");
        }
    }
}
