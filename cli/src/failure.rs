//! Why a command did not do what it was asked to, by what its caller can do about it: that is the exit code.

/// A command's failure. Its text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something is away, in use or broken: the same command may work when that is over.
    #[error("{0}")]
    Failed(String),
    /// The command line or a file is wrong: correct it.
    #[error("{0}")]
    Usage(String),
    /// The program that is to get the events ended by itself.
    #[error("{0}")]
    Program(String),
    /// A topic refuses an event for good, dead letters stay or were not there, or are no events: the rest was done.
    #[error("{0}")]
    Refused(String),
    /// A resource or a cluster could not be looked at.
    #[error("{0}")]
    Unseen(String),
    /// Something that was looked at is wrong.
    #[error("{0}")]
    Red(String),
    /// Ctrl-C.
    #[error("{0}")]
    Interrupted(String),
    /// Whoever read the output has gone: there is nobody to say anything to.
    #[error("the output is not read any more")]
    Closed,
}

impl Failure {
    /// What could work later.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// What has to be corrected.
    pub fn usage(error: impl std::fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Program(_) => 3,
            Self::Refused(_) => 4,
            Self::Unseen(_) => 5,
            Self::Red(_) => 6,
            // What a shell says of a program that SIGINT ended: 128 and its number.
            Self::Interrupted(_) => 130,
            // What a shell says of a program that wrote into a closed pipe: 128 and SIGPIPE.
            Self::Closed => 141,
        }
    }
}
