//! W3C Trace Context (`traceparent`, `tracestate`) from any kind of header map.

use std::str::FromStr as _;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The header of a trace's identity.
pub const TRACEPARENT: &str = "traceparent";
/// The header of what vendors add to it.
pub const TRACESTATE: &str = "tracestate";

/// The length of a `traceparent` of version 00 (Trace Context, section 3.2.2).
const LENGTH: usize = 55;

/// What a `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) is_sampled: bool,
}

impl TraceParent {
    /// Reads a `traceparent`; `None` if it is none. What is not of the usual form is left to the SDK's propagator, so
    /// that the same ones are accepted.
    pub fn parse(text: &str) -> Option<Self> {
        let usual = || {
            let bytes: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
            let dashes = bytes[2] == b'-' && bytes[35] == b'-' && bytes[52] == b'-';
            if !dashes || bytes[..2] != *b"00" {
                return None;
            }
            let trace_id = hex(&bytes[3..35])?;
            let span_id = u64::try_from(hex(&bytes[36..52])?).ok()?;
            let is_sampled = hex(&bytes[53..])? & 1 == 1;
            (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, is_sampled })
        };
        usual().or_else(|| Self::from_context(&context_from(&|name| (name == TRACEPARENT).then_some(text))))
    }

    fn from_context(context: &Context) -> Option<Self> {
        let span = context.span();
        let context = span.span_context();
        context.is_valid().then(|| Self {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            is_sampled: context.is_sampled(),
        })
    }
}

/// Lower-case hexadecimal digits, at most 32.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// A `tracestate` as it is passed on; one that is malformed is left out (Trace Context, section 4.3).
pub fn trace_state(text: Option<&str>) -> Option<TraceState> {
    TraceState::from_str(text?).ok().filter(|state| !state.header().is_empty())
}

/// Gives `traceparent`, and `tracestate` where it is not empty, to `set`.
pub(crate) fn inject(context: &SpanContext, mut set: impl FnMut(&str, &str)) {
    set(TRACEPARENT, &header(context.trace_id(), context.span_id(), context.trace_flags()));
    let state = context.trace_state().header();
    if !state.is_empty() {
        set(TRACESTATE, &state);
    }
}

/// Written by hand, because `fmt` takes several times as long, and each event has one.
fn header(trace_id: TraceId, span_id: SpanId, flags: TraceFlags) -> String {
    let mut header = String::with_capacity(LENGTH);
    let parts: [&[u8]; 4] = [&[0], &trace_id.to_bytes(), &span_id.to_bytes(), &[(flags & TraceFlags::SAMPLED).to_u8()]];
    for (number, part) in parts.into_iter().enumerate() {
        if number > 0 {
            header.push('-');
        }
        for byte in part {
            header.extend([byte >> 4, byte & 0xF].map(|digit| char::from(DIGITS[usize::from(digit)])));
        }
    }
    header
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// The remote context that headers carry, by the SDK's propagator; an empty one where they carry none.
pub(crate) fn context_from<'h>(header: &impl Fn(&str) -> Option<&'h str>) -> Context {
    let headers = Headers { parent: header(TRACEPARENT), state: header(TRACESTATE) };
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

struct Headers<'h> {
    parent: Option<&'h str>,
    state: Option<&'h str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => self.parent,
            TRACESTATE => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn read_by_the_sdk(text: &str) -> Option<TraceParent> {
        TraceParent::from_context(&context_from(&|name| (name == TRACEPARENT).then_some(text)))
    }

    #[test]
    fn a_parent_is_read_and_written() {
        let parent = TraceParent::parse(PARENT).unwrap();
        let expected = (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331, true);
        assert_eq!((parent.trace_id, parent.span_id, parent.is_sampled), expected);
        let state = trace_state(Some("vendor=value")).unwrap();
        let context = SpanContext::new(
            TraceId::from(parent.trace_id),
            SpanId::from(parent.span_id),
            TraceFlags::SAMPLED,
            false,
            state,
        );
        let mut headers = Vec::new();
        inject(&context, |name, value| headers.push((name.to_owned(), value.to_owned())));
        assert_eq!(headers, [(TRACEPARENT.into(), PARENT.into()), (TRACESTATE.into(), "vendor=value".into())]);
    }

    #[test]
    fn ids_are_written_in_full() {
        for (trace, span) in [(0, 0), (1, 1), (u128::MAX, u64::MAX), (0xabc << 100, 0xdef << 40)] {
            for (flags, digits) in
                [(TraceFlags::SAMPLED, "01"), (TraceFlags::NOT_SAMPLED, "00"), (TraceFlags::new(0xff), "01")]
            {
                let written = header(TraceId::from(trace), SpanId::from(span), flags);
                assert_eq!(written, format!("00-{trace:032x}-{span:016x}-{digits}"));
            }
        }
    }

    /// Every byte of a good one is replaced by every other, so that each check is met.
    #[test]
    fn what_the_sdk_accepts_is_accepted_and_nothing_else() {
        for position in 0..LENGTH {
            for byte in 0..128 {
                let mut bytes = PARENT.as_bytes().to_vec();
                bytes[position] = byte;
                let text = String::from_utf8(bytes).unwrap();
                assert_eq!(TraceParent::parse(&text), read_by_the_sdk(&text), "{text:?}");
            }
        }
        let zero_trace = format!("00-{:032x}-b7ad6b7169203331-01", 0);
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{:016x}-01", 0);
        let long = format!("{PARENT}-more");
        let odd = ["", " ", "00", "00-zz-b7ad6b7169203331-01", "é", &zero_trace, &zero_span, &long, &PARENT[..54]];
        for text in odd.into_iter().chain([&*format!(" {PARENT} "), &*PARENT.replacen("00", "01", 1)]) {
            assert_eq!(TraceParent::parse(text), read_by_the_sdk(text), "{text:?}");
        }
        assert_eq!(TraceParent::parse(&zero_trace), None);
    }

    #[test]
    fn a_malformed_state_is_left_out() {
        assert_eq!(trace_state(Some("a=1,b=2")).map(|state| state.header()).as_deref(), Some("a=1,b=2"));
        for text in [None, Some(""), Some("no pair")] {
            assert_eq!(trace_state(text), None, "{text:?}");
        }
    }
}
