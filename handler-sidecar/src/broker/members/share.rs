//! Which member takes which lane: rendezvous hashing with a least and a most number of lanes for each member. Pure.
//!
//! Every member that knows of the same others comes to the same result. Each takes as many lanes as any other, give or
//! take one, so none is idle while there are at least as many lanes as members; and a member that comes or goes moves
//! few lanes of the others.

/// A member's name.
pub type Member = u64;

/// The owner of each lane; none, if there are no members.
pub fn owners(lanes: u16, members: &[Member]) -> Vec<Option<Member>> {
    let (lanes_each, more) = (usize::from(lanes) / members.len().max(1), usize::from(lanes) % members.len().max(1));
    let mut wishes: Vec<(u64, u16, Member)> =
        (0..lanes).flat_map(|lane| members.iter().map(move |member| (score(lane, *member), lane, *member))).collect();
    wishes.sort_unstable();
    let mut owners = vec![None; usize::from(lanes)];
    // First every member gets its least, then some of them one more.
    for limit in [lanes_each, lanes_each + usize::from(more > 0)] {
        for (_, lane, member) in &wishes {
            let lane = usize::from(*lane);
            if owners[lane].is_none() && owners.iter().filter(|owner| **owner == Some(*member)).count() < limit {
                owners[lane] = Some(*member);
            }
        }
    }
    owners
}

/// How little a lane and a member fit together: the finalizer of SplitMix64 over both, the same in every version.
fn score(lane: u16, member: Member) -> u64 {
    let mut mixed = member ^ u64::from(lane).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_members_no_lane_has_an_owner() {
        assert_eq!(owners(2, &[]), [None, None]);
        assert_eq!(owners(2, &[7]), [Some(7), Some(7)]);
    }

    #[test]
    fn no_pod_is_idle_with_eight_lanes_on_seven() {
        for first in 0..1000u64 {
            let members: Vec<Member> = (0..7).map(|number| score(number, first)).collect();
            let owners = owners(8, &members);
            let idle = members.iter().filter(|member| !owners.contains(&Some(**member))).count();
            assert_eq!(idle, 0, "{owners:?}");
        }
    }

    /// A newcomer takes its own lanes, and hardly more than these move.
    #[test]
    fn a_change_moves_few_lanes() {
        let (mut moved, mut due) = (0, 0.0);
        for (lanes, count) in [8u16, 16, 32].into_iter().flat_map(|lanes| (1..lanes).map(move |count| (lanes, count))) {
            let members: Vec<Member> =
                (0..=count).map(|number| score(number, u64::from(lanes * 100 + count))).collect();
            let (before, after) = (owners(lanes, &members[1..]), owners(lanes, &members));
            moved += before.iter().zip(&after).filter(|(before, after)| before != after).count();
            due += f64::from(lanes) / f64::from(count + 1);
        }
        assert!((moved as f64) < 2.0 * due, "{moved} moved, {due} had to");
    }

    proptest! {
        #[test]
        fn every_lane_has_an_owner_and_none_has_much_more_or_less(
            lanes in 1u16..33, members in proptest::collection::btree_set(any::<u64>(), 1..40),
        ) {
            let members: Vec<_> = members.into_iter().collect();
            let owners = owners(lanes, &members);
            prop_assert!(owners.iter().all(|owner| owner.is_some_and(|owner| members.contains(&owner))));
            let (least, most) = (usize::from(lanes) / members.len(), usize::from(lanes).div_ceil(members.len()));
            for member in &members {
                let share = owners.iter().filter(|owner| **owner == Some(*member)).count();
                prop_assert!((least..=most).contains(&share), "{share} lanes of {lanes}, {} members", members.len());
            }
        }

        #[test]
        fn all_agree(lanes in 1u16..33, members in proptest::collection::btree_set(any::<u64>(), 1..20)) {
            let forwards: Vec<_> = members.iter().copied().collect();
            let backwards: Vec<_> = members.iter().rev().copied().collect();
            prop_assert_eq!(owners(lanes, &forwards), owners(lanes, &backwards));
        }
    }
}
