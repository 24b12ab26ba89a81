//! A load that rises and falls with noise, on pods that take a few seconds to start: how often the number of pods
//! changes, beside what Knative's autoscaler makes of the same.

use super::*;

/// Seconds that an event takes.
const SERVICE: f64 = 0.1;
/// Seconds until a pod is ready.
const START: usize = 3;

/// What an autoscaler sees, and what it wants.
trait Scaler {
    fn want(&mut self, sample: Sample, current: u32) -> u32;
}

struct Ours(Policy, History);

impl Scaler for Ours {
    fn want(&mut self, sample: Sample, current: u32) -> u32 {
        self.1.record(&self.0, sample);
        self.1.decide(&self.0, current).replicas
    }
}

/// Knative's KPA with its defaults: concurrency, 70 %, 60 s and 6 s, panic at 200 %, down by half at most.
struct Knative {
    policy: Policy,
    seen: VecDeque<f64>,
    panicked: Option<(Duration, u32)>,
}

impl Scaler for Knative {
    fn want(&mut self, sample: Sample, _: u32) -> u32 {
        self.seen.push_front(sample.running + sample.pending as f64);
        self.seen.truncate(60);
        let target = f64::from(self.policy.slots) * 0.7;
        let average = |seconds: usize| {
            let values: Vec<f64> = self.seen.iter().take(seconds).copied().collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        let ready = f64::from(sample.ready.max(1));
        let pods = |seconds| ((average(seconds) / target).ceil()).max((ready / 2.0).floor()) as u32;
        let (stable, panic) = (pods(60), pods(6));
        if f64::from(panic) >= 2.0 * ready {
            self.panicked = Some((sample.at, self.panicked.map_or(0, |(_, most)| most)));
        } else if self.panicked.is_some_and(|(at, _)| at + STABLE_WINDOW < sample.at) {
            self.panicked = None;
        }
        let wanted = match &mut self.panicked {
            Some((_, most)) => {
                *most = (*most).max(panic).max(sample.ready);
                *most
            }
            None => stable,
        };
        wanted.clamp(self.policy.min, self.policy.max)
    }
}

/// Events a second: a slow wave, two bursts, and a fifth of noise.
fn load(second: usize, random: &mut u64) -> f64 {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let noise = (*random >> 40) as f64 / f64::from(1u32 << 24) - 0.5;
    let wave = 500.0 - 450.0 * (second as f64 / 150.0 * std::f64::consts::TAU).cos();
    let burst = if matches!(second, 200..=209 | 420..=429) { 600.0 } else { 0.0 };
    (wave + burst) * (1.0 + 0.4 * noise)
}

/// How often the number changed, and the longest time that an event waited.
fn run(mut scaler: impl Scaler, slots: u32) -> (usize, f64) {
    let (mut random, mut waiting, mut delivered) = (7, 0.0, 0.0);
    let (mut wanted, mut changes, mut longest) = (vec![1u32; START + 1], 0, 0.0f64);
    for second in 0..600 {
        let recent = &wanted[wanted.len() - START - 1..];
        let ready = recent.iter().copied().min().unwrap();
        let capacity = f64::from(ready * slots) / SERVICE;
        waiting += load(second, &mut random);
        let handled = waiting.min(capacity);
        waiting -= handled;
        delivered += handled;
        longest = longest.max(waiting / capacity);
        let running = handled * SERVICE;
        let sample = Sample {
            unacknowledged: running as u64,
            running,
            delivered: delivered as u64,
            succeeded: delivered as u64,
            ready,
            ..sample(second as u64, waiting as u64, 0)
        };
        let current = *wanted.last().unwrap();
        let next = scaler.want(sample, current);
        changes += usize::from(next != current);
        wanted.push(next);
    }
    (changes, longest)
}

#[test]
fn the_number_of_pods_changes_less_often_than_knatives() {
    let policy = Policy { min: 1, max: 40, idle_after: Duration::from_secs(60), ..policy() };
    let ours = run(Ours(policy.clone(), History::default()), policy.slots);
    let knative = Knative { policy: policy.clone(), seen: VecDeque::new(), panicked: None };
    let knatives = run(knative, policy.slots);
    assert!(ours.0 <= knatives.0, "{ours:?} {knatives:?}");
    assert!(ours.1 <= policy.target.as_secs_f64(), "an event waited too long: {ours:?} {knatives:?}");
}
