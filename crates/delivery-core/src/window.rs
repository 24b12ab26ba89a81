//! How many events to ask for.
//!
//! Never more than there are free permits: an event that is asked for may arrive at once, and one that waits
//! here for a permit would be withheld from a replica that is free. Within that, few requests: while one is
//! open with something left, it is topped up only when half of the permits are free. So there are at most two
//! requests open at a time, and a saturated handler's completions gather into one request per round trip.

/// How many events to request, if any.
///
/// `concurrency` permits in all, `in_hand` of them taken, `outstanding` events requested and not yet received.
pub fn request(concurrency: usize, in_hand: usize, outstanding: usize) -> Option<usize> {
    let free = concurrency.saturating_sub(in_hand).saturating_sub(outstanding);
    let wanted = if outstanding == 0 { 1 } else { concurrency.div_ceil(2) };
    (free > 0 && free >= wanted).then_some(free)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn by_example() {
        for (concurrency, in_hand, outstanding, expected) in [
            (16, 0, 0, Some(16)),
            (16, 15, 0, Some(1)),
            (16, 16, 0, None),
            (16, 1, 15, None),
            (16, 0, 9, None),
            (16, 0, 8, Some(8)),
            (16, 4, 1, Some(11)),
            (1, 0, 0, Some(1)),
            (1, 1, 0, None),
            (1, 0, 1, None),
            (3, 0, 1, Some(2)),
            (3, 0, 2, None),
            // More arrived than was asked for: the broker's fault is not made worse.
            (2, 3, 0, None),
        ] {
            assert_eq!(request(concurrency, in_hand, outstanding), expected, "{concurrency} {in_hand} {outstanding}");
        }
    }

    proptest! {
        /// Any order of arrivals and completions: the permits are never exceeded, no permit stays unused for
        /// good, and there are never more than two requests open.
        #[test]
        fn permits_bound_it(concurrency in 1usize..40, arrivals in proptest::collection::vec(any::<bool>(), 0..300)) {
            let (mut in_hand, mut open) = (0, Vec::<usize>::new());
            for arrives in arrivals {
                let outstanding: usize = open.iter().sum();
                if let Some(batch) = request(concurrency, in_hand, outstanding) {
                    open.push(batch);
                }
                prop_assert!(open.len() <= 2);
                let outstanding: usize = open.iter().sum();
                prop_assert!(in_hand + outstanding <= concurrency);
                prop_assert!(outstanding > 0 || in_hand == concurrency);
                if arrives && outstanding > 0 {
                    open[0] -= 1;
                    open.retain(|left| *left > 0);
                    in_hand += 1;
                } else {
                    in_hand = in_hand.saturating_sub(1);
                }
            }
        }
    }
}
