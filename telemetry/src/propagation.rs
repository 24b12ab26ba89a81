//! W3C Trace Context (`traceparent`, `tracestate`) from and into any kind of header map.

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The remote context that headers (or an event's extensions) carry; an empty context where they carry none
/// or a malformed one. `header` is asked for `traceparent` and `tracestate`, in lower case.
pub fn context_from<'h>(header: &impl Fn(&str) -> Option<&'h str>) -> Context {
    let headers = Headers { parent: header("traceparent"), state: header("tracestate") };
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

/// Gives `traceparent`, and `tracestate` where it is not empty, to `set`.
///
/// Nothing is set where the context has no valid span, which is always so without an exporter: what came in
/// is then passed on as it was.
pub fn inject(context: &Context, set: impl FnMut(&str, String)) {
    TraceContextPropagator::new().inject_context(context, &mut Setter(set));
}

struct Headers<'h> {
    parent: Option<&'h str>,
    state: Option<&'h str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.parent,
            "tracestate" => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

struct Setter<F>(F);

impl<F: FnMut(&str, String)> Injector for Setter<F> {
    fn set(&mut self, key: &str, value: String) {
        // The propagator also writes an empty tracestate; an empty header is of no use to anybody.
        if !value.is_empty() {
            (self.0)(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt as _;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers_of(context: &Context) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        inject(context, |key, value| headers.push((key.to_owned(), value)));
        headers
    }

    #[test]
    fn a_context_goes_round() {
        let context = context_from(&|name| (name == "traceparent").then_some(PARENT));
        assert!(context.span().span_context().is_remote());
        assert_eq!(headers_of(&context), [("traceparent".to_owned(), PARENT.to_owned())]);
    }

    #[test]
    fn the_vendor_state_goes_with_it() {
        let context = context_from(&|name| match name {
            "traceparent" => Some(PARENT),
            "tracestate" => Some("vendor=value"),
            _ => None,
        });
        assert!(headers_of(&context).contains(&("tracestate".to_owned(), "vendor=value".to_owned())));
    }

    #[test]
    fn what_is_malformed_or_absent_sets_nothing() {
        for parent in [None, Some(""), Some("00-zz-b7ad6b7169203331-01"), Some("not a parent")] {
            let context = context_from(&|name| if name == "traceparent" { parent } else { None });
            assert!(!context.span().span_context().is_valid(), "{parent:?}");
            assert!(headers_of(&context).is_empty(), "{parent:?}");
        }
    }
}
