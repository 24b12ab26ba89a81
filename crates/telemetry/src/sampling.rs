//! Which traces are exported, decided from the bytes of a `traceparent`, before there is a span.

use crate::TraceParent;

/// The sampler that `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` name. It decides as the SDK's own does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// The decision of a parent is followed; [`Self::own`] is for traces that begin here.
    parent_based: bool,
    own: Own,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Always,
    Never,
    /// Those whose trace id, its lower 63 bits read as a number, is below this.
    Below(u64),
}

impl Default for Sampling {
    /// As without `OTEL_TRACES_SAMPLER`: the parent decides, else all.
    fn default() -> Self {
        Self { parent_based: true, own: Own::Always }
    }
}

impl Sampling {
    /// From the environment. What the SDK does not know it warns of, and takes for the default.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let Some(name) = variable("OTEL_TRACES_SAMPLER") else { return Self::default() };
        let ratio =
            || Own::ratio(variable("OTEL_TRACES_SAMPLER_ARG").and_then(|text| text.parse().ok()).unwrap_or(1.0));
        let (parent_based, own) = match &*name {
            "always_on" => (false, Own::Always),
            "always_off" => (false, Own::Never),
            "traceidratio" => (false, ratio()),
            "parentbased_always_off" => (true, Own::Never),
            "parentbased_traceidratio" => (true, ratio()),
            _ => return Self::default(),
        };
        Self { parent_based, own }
    }

    /// Whether a span of this trace is exported; `parent` is what it would be a child of.
    pub(crate) fn samples(self, trace_id: u128, parent: Option<&TraceParent>) -> bool {
        match (parent, self.own) {
            (Some(parent), _) if self.parent_based => parent.is_sampled,
            (_, Own::Always) => true,
            (_, Own::Never) => false,
            (_, Own::Below(bound)) => number(trace_id) < bound,
        }
    }
}

impl Own {
    /// OpenTelemetry, "TraceIdRatioBased": the SDK's arithmetic, so that both decide alike.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^63 and not negative")]
    fn ratio(ratio: f64) -> Self {
        if ratio >= 1.0 { Self::Always } else { Self::Below((ratio.max(0.0) * (1_u64 << 63) as f64) as u64) }
    }
}

/// The 63 bits of a trace id that are compared.
#[allow(clippy::cast_possible_truncation, reason = "the lower half is what is meant")]
fn number(trace_id: u128) -> u64 {
    trace_id as u64 >> 1
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanKind, TraceContextExt as _, TraceId};
    use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample};

    use super::*;
    use crate::propagation::context_from;

    /// Every sampler of the specification that the SDK has, as the variables name it and as the SDK makes it.
    fn samplers() -> Vec<(&'static str, &'static str, Sampler)> {
        let parent_based = |own: Sampler| Sampler::ParentBased(Box::new(own));
        let mut samplers = vec![
            ("always_on", "", Sampler::AlwaysOn),
            ("always_off", "", Sampler::AlwaysOff),
            ("parentbased_always_on", "", parent_based(Sampler::AlwaysOn)),
            ("parentbased_always_off", "", parent_based(Sampler::AlwaysOff)),
            ("jaeger_remote", "", parent_based(Sampler::AlwaysOn)),
            ("unknown", "", parent_based(Sampler::AlwaysOn)),
            ("traceidratio", "no number", Sampler::TraceIdRatioBased(1.0)),
        ];
        for text in ["0", "0.01", "0.5", "0.999999", "1", "7", "-1", "1e-19", "NaN", "inf"] {
            let ratio: f64 = text.parse().unwrap();
            samplers.push(("traceidratio", text, Sampler::TraceIdRatioBased(ratio)));
            samplers.push(("parentbased_traceidratio", text, parent_based(Sampler::TraceIdRatioBased(ratio))));
        }
        samplers
    }

    #[test]
    fn the_decision_is_that_of_the_sdk() {
        let random = (0..2_000).map(|_| fastrand::u128(1..));
        let ids: Vec<_> = random.chain([1, 2, u128::MAX, u128::from(u64::MAX), 1 << 63, (1 << 64) - 2]).collect();
        for (name, argument, sdk) in samplers() {
            let variable = |asked: &str| match asked {
                "OTEL_TRACES_SAMPLER" => Some(name.to_owned()),
                _ => Some(argument.to_owned()).filter(|argument| !argument.is_empty()),
            };
            let ours = Sampling::from_variables(variable);
            for id in &ids {
                for flags in [None, Some("00"), Some("01"), Some("ff"), Some("02")] {
                    let text = flags.map(|flags| format!("00-{id:032x}-00f067aa0ba902b7-{flags}"));
                    let parent = text.as_deref().and_then(TraceParent::parse);
                    let context = context_from(&|name| text.as_deref().filter(|_| name == "traceparent"));
                    assert_eq!(parent.is_some(), context.span().span_context().is_valid());
                    let context = Some(&context).filter(|_| text.is_some());
                    let decided =
                        sdk.should_sample(context, TraceId::from(*id), "process", &SpanKind::Consumer, &[], &[]);
                    let decided = decided.decision == SamplingDecision::RecordAndSample;
                    assert_eq!(ours.samples(*id, parent.as_ref()), decided, "{name} {argument} {text:?} {id:032x}");
                }
            }
        }
        assert_eq!(Sampling::from_variables(|_| None), Sampling::default());
    }
}
