//! Who of the members takes which lane: rendezvous hashing with a limit for each member. Pure.
//!
//! Every member that knows of the same others comes to the same result. Each takes as many lanes as any other,
//! give or take one, so with as many members as lanes each has one; and a member that comes or goes moves few
//! lanes of the others.

/// A member's name.
pub type Member = u64;

/// Who takes each lane; nobody, if there are no members.
pub fn owners(lanes: u16, members: &[Member]) -> Vec<Option<Member>> {
    let limit = usize::from(lanes).div_ceil(members.len().max(1));
    let mut wishes: Vec<(u64, u16, Member)> =
        (0..lanes).flat_map(|lane| members.iter().map(move |member| (score(lane, *member), lane, *member))).collect();
    wishes.sort_unstable();
    let mut owners = vec![None; usize::from(lanes)];
    for (_, lane, member) in wishes {
        let lane = usize::from(lane);
        if owners[lane].is_none() && owners.iter().filter(|owner| **owner == Some(member)).count() < limit {
            owners[lane] = Some(member);
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
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nobody_takes_nothing() {
        assert_eq!(owners(2, &[]), [None, None]);
        assert_eq!(owners(2, &[7]), [Some(7), Some(7)]);
    }

    proptest! {
        #[test]
        fn every_lane_has_an_owner_and_nobody_has_much_more(
            lanes in 1u16..33, members in proptest::collection::btree_set(any::<u64>(), 1..40),
        ) {
            let members: Vec<_> = members.into_iter().collect();
            let owners = owners(lanes, &members);
            let limit = usize::from(lanes).div_ceil(members.len());
            for owner in &owners {
                prop_assert!(owner.is_some_and(|owner| members.contains(&owner)));
                prop_assert!(owners.iter().filter(|other| *other == owner).count() <= limit);
            }
            if members.len() >= usize::from(lanes) {
                let distinct: BTreeSet<_> = owners.iter().collect();
                prop_assert_eq!(distinct.len(), usize::from(lanes), "as many can work as there are lanes");
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
