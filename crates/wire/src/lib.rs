//! The data plane's own protocol code, bounded in every length that the other side sends.
