//! The library's one error type.

use std::error::Error as StdError;
use std::fmt;

/// The library's result type.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, in one line, with its kind and the error that caused it.
///
/// [`fmt::Display`] gives one line: the message, then the causes, separated by colons. Line breaks and other control
/// characters are replaced by spaces, so that text from a hostile file cannot take over a terminal or a log.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

/// The kinds of [`Error`], so that a program can decide what to do about one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or a folder could not be read or written.
    Io,
    /// The model bundle is not valid.
    Bundle,
    /// The engine could not load or run a graph, or a graph gave impossible numbers.
    Engine,
    /// The caller asked for something impossible: an unknown label, zero steps, a wrong size.
    Request,
    /// An image could not be read or written.
    Image,
    /// The caller stopped the work.
    Cancelled,
    /// There is not enough memory.
    Memory,
    /// A fault of this library. Please report it.
    Internal,
}

impl Error {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same error, caused by `source`.
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A failed file operation: `what` names the operation and the file ("cannot read x.json").
    pub fn io(what: impl Into<String>, error: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, what).with_source(error)
    }

    /// An [`ErrorKind::Bundle`] error.
    pub fn bundle(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bundle, message)
    }

    /// An [`ErrorKind::Engine`] error.
    pub fn engine(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Engine, message)
    }

    /// An [`ErrorKind::Request`] error.
    pub fn request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Request, message)
    }

    /// An [`ErrorKind::Image`] error.
    pub fn image(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Image, message)
    }

    /// An [`ErrorKind::Internal`] error.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The [`ErrorKind::Cancelled`] error.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    /// The same error with `context` in front of its message: "context: message".
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The message alone, without the causes.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.message.clone();
        let mut next = self.source();
        while let Some(error) = next {
            let cause = error.to_string();
            // Many error types print their own source too: say it once.
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
            next = error.source();
        }
        for c in text.chars() {
            fmt::Write::write_char(f, if c.is_control() { ' ' } else { c })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_send_sync<T: Send + Sync + 'static>() {}

    #[test]
    fn display_is_one_line_with_causes() {
        check_send_sync::<Error>();
        let io = std::io::Error::new(std::io::ErrorKind::NotFound, "no such\nfile \u{1b}[31m");
        let error = Error::io("cannot read a.json", io).context("model m");
        assert_eq!(error.to_string(), "model m: cannot read a.json: no such file  [31m");
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(Error::cancelled().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn a_cause_that_repeats_the_message_is_said_once() {
        let error = Error::engine("no port x").with_source(Error::engine("no port x"));
        assert_eq!(error.to_string(), "no port x");
    }
}
