//! When a request that was sent may go out again: what a route says of it.

use std::fmt;
use std::time::Duration;

use http::{Method, StatusCode};

/// Methods, of those that RFC 9110 and RFC 5789 define.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MethodSet(u16);

/// In the order of their bits. CONNECT is never forwarded.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::TRACE,
    Method::PUT,
    Method::DELETE,
    Method::POST,
    Method::PATCH,
];

impl MethodSet {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// Those that RFC 9110 calls idempotent: to do them twice is to do them once.
    pub const IDEMPOTENT: Self = Self(0b11_1111);

    fn bit(method: &Method) -> u16 {
        METHODS.iter().position(|known| known == method).map_or(0, |at| 1 << at)
    }

    /// Adds a method. False where it is none that can be in here.
    pub fn insert(&mut self, method: &Method) -> bool {
        let bit = Self::bit(method);
        self.0 |= bit;
        bit != 0
    }

    /// Whether a method is in it.
    pub fn contains(self, method: &Method) -> bool {
        self.0 & Self::bit(method) != 0
    }

    /// The names of all methods that can be in one.
    pub fn all_names() -> impl Iterator<Item = &'static str> {
        METHODS.iter().map(Method::as_str)
    }

    /// The names of those that are.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        METHODS.iter().filter(move |method| self.contains(method)).map(Method::as_str)
    }
}

/// Statuses from 400 to 599.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StatusSet([u64; 4]);

impl StatusSet {
    /// None of them.
    pub const NONE: Self = Self([0; 4]);
    /// 502, 503 and 504: of them a gateway knows that another instance may do better.
    pub const UNAVAILABLE: Self = Self([0, (1 << (102 - 64)) | (1 << (103 - 64)) | (1 << (104 - 64)), 0, 0]);

    fn place(status: StatusCode) -> Option<(usize, u64)> {
        let at = status.as_u16().checked_sub(400).filter(|at| *at < 200)?;
        Some((usize::from(at / 64), 1 << (at % 64)))
    }

    /// Adds a status. False where it is none that can be in here.
    pub fn insert(&mut self, status: StatusCode) -> bool {
        let place = Self::place(status);
        if let Some((word, bit)) = place {
            self.0[word] |= bit;
        }
        place.is_some()
    }

    /// Whether a status is in it.
    pub fn contains(&self, status: StatusCode) -> bool {
        Self::place(status).is_some_and(|(word, bit)| self.0[word] & bit != 0)
    }

    /// Those that are in it, in order.
    pub fn codes(&self) -> impl Iterator<Item = u16> {
        (400..600).filter(|code| StatusCode::from_u16(*code).is_ok_and(|status| self.contains(status)))
    }
}

impl fmt::Debug for StatusSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.codes()).finish()
    }
}

/// `retry`: small and plain, so that a request takes it along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetrySpec {
    /// How often a request that was sent may go out again; zero: not at all.
    pub attempts: u32,
    /// Answers that are as good as none.
    pub statuses: StatusSet,
    /// Requests that may reach two instances.
    pub methods: MethodSet,
    /// How long one attempt may take until its answer's head.
    pub per_try_timeout: Option<Duration>,
    /// Bytes of a body that are kept for the next attempt.
    pub buffer: usize,
}

impl RetrySpec {
    /// `retry = "off"`: only what was never sent goes to another instance.
    pub const OFF: Self = Self {
        attempts: 0,
        statuses: StatusSet::NONE,
        methods: MethodSet::NONE,
        per_try_timeout: None,
        buffer: 0,
    };
    /// The `buffer` of a route that names none.
    pub const DEFAULT_BUFFER: usize = 64 << 10;
}

impl Default for RetrySpec {
    fn default() -> Self {
        Self {
            attempts: 2,
            statuses: StatusSet::UNAVAILABLE,
            methods: MethodSet::IDEMPOTENT,
            per_try_timeout: None,
            buffer: Self::DEFAULT_BUFFER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idempotent_are_those_that_http_says() {
        for method in &METHODS {
            assert_eq!(MethodSet::IDEMPOTENT.contains(method), method.is_idempotent(), "{method}");
            let mut set = MethodSet::NONE;
            assert!(set.insert(method) && set.contains(method));
            assert_eq!(set.names().collect::<Vec<_>>(), [method.as_str()]);
        }
        let mut set = MethodSet::NONE;
        let other = Method::from_bytes(b"PROPFIND").unwrap();
        assert!(!set.insert(&other) && !set.contains(&other) && !MethodSet::IDEMPOTENT.contains(&other));
    }

    #[test]
    fn a_set_of_statuses_holds_what_was_put_into_it() {
        assert_eq!(StatusSet::UNAVAILABLE.codes().collect::<Vec<_>>(), [502, 503, 504]);
        let mut set = StatusSet::NONE;
        for code in [400, 429, 463, 464, 500, 527, 528, 599] {
            assert!(set.insert(StatusCode::from_u16(code).unwrap()));
        }
        assert_eq!(set.codes().collect::<Vec<_>>(), [400, 429, 463, 464, 500, 527, 528, 599]);
        for code in [100, 200, 399, 600, 999] {
            let status = StatusCode::from_u16(code).unwrap();
            assert!(!set.insert(status) && !set.contains(status), "{code}");
        }
    }
}
