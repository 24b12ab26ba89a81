//! The credentials of a request. Pure.

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::problem::Problem;

/// The scheme of tokens (RFC 6750, section 2.1), compared without regard to case (RFC 9110, section 11.1).
const BEARER: &str = "Bearer ";

/// The token of a request, if it has one.
///
/// # Errors
/// There are other credentials, or several. They would not count, and whoever sends them believes that they do.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(refused("there is more than one Authorization header"));
    }
    let text = value.to_str().map_err(|_| refused("the Authorization header is not readable"))?;
    let (scheme, token) = text.split_at_checked(BEARER.len()).unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case(BEARER) {
        return Err(refused("the Authorization header is not Bearer"));
    }
    Ok(Some(token.trim_start_matches(' ')))
}

fn refused(reason: &str) -> Problem {
    Problem::unauthenticated(Some(reason.to_owned()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_request_has_one_token_or_none() {
        let read = |values: &[&[u8]]| {
            let header = |value: &&[u8]| (AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
            let headers = values.iter().map(header).collect();
            bearer(&headers).map(|token| token.map(str::to_owned)).map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(read(&[]), Ok(None));
        for good in [&b"Bearer a.b.c"[..], b"bearer a.b.c", b"BEARER   a.b.c"] {
            assert_eq!(read(&[good]), Ok(Some("a.b.c".to_owned())));
        }
        // It is there, and proves nothing.
        assert_eq!(read(&[b"Bearer "]), Ok(Some(String::new())));
        for bad in
            [&[&b"Bearer a"[..], b"Bearer a"][..], &[b"Basic YTpi"], &[b"Bearer"], &[b""], &[b"a.b.c"], &[b"\xff"]]
        {
            assert_eq!(read(bad), Err(401), "{bad:?}");
        }
    }
}
