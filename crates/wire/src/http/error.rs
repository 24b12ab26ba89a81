//! Why bytes are no response.

use super::head::MAX_HEAD_BYTES;

/// What a server sent is not a response. Nothing more can be read from its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A status line or a field line breaks the syntax (RFC 9112, sections 4 and 5), or there are too many lines.
    #[error("the head of the response is malformed: {0}")]
    Head(httparse::Error),
    /// The head does not end in time.
    #[error("the head of the response is too large: it has more than {MAX_HEAD_BYTES} bytes")]
    HeadTooLarge,
    /// The three digits are below 100.
    #[error("the response has an invalid status code")]
    Status,
    /// One interim response (1xx) follows the other, and no final one.
    #[error("too many interim responses (1xx) came before the final one")]
    TooManyInterimResponses,
    /// `Content-Length` is no number, is above 2^64 - 1, or is there twice with different values (RFC 9112,
    /// section 6.3, rule 5: unrecoverable).
    #[error("the response has an invalid content-length")]
    ContentLength,
    /// `Transfer-Encoding` in a response of HTTP/1.0: its framing is faulty (RFC 9112, section 6.1).
    #[error("the response has a transfer-encoding, and is of HTTP/1.0")]
    TransferEncoding,
    /// A chunk's size is no hexadecimal number of at most 16 digits.
    #[error("the response has an invalid chunk size")]
    ChunkSize,
    /// A chunk does not end where its size says, or its line is malformed.
    #[error("the response has an invalid chunk")]
    Chunk,
    /// Chunk extensions and trailer fields are too long: they are bytes that no one reads.
    #[error("the chunk extensions or trailers of the response are too large")]
    ChunkOverhead,
    /// The server closed the connection in the middle of a response, or before it.
    #[error("connection closed before the response was complete")]
    Closed,
}
