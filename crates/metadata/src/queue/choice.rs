//! Whose turn it is: a pure function.
//!
//! The next run is of the project with the fewest runs under way; within it, what a custodian has moved up comes first,
//! then the person with the fewest runs under way, then the oldest. Between projects with as many, the same decides.
//! A run that is next and does not fit waits for room, and everything else waits with it: so a large run waits for what
//! is under way at that moment and for nothing that comes later.

use super::Resources;

/// A run that waits: of the same project, owner and priority, the oldest is enough to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: i64,
    pub(super) project: String,
    pub(super) owner: String,
    pub(super) priority: i64,
    /// Whether it was next before, and did not fit.
    pub(super) reserved: bool,
    pub(super) needs: Resources,
}

/// A run that takes room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnderWay {
    pub(super) project: String,
    pub(super) owner: String,
    pub(super) takes: Resources,
}

/// What becomes of the queue now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nobody waits.
    Nobody,
    /// This one is next and waits until there is room.
    Waits(i64),
    /// This one starts.
    Starts(i64),
}

/// Who is next, and whether there is room for it in `total`.
pub(super) fn choose(candidates: &[Candidate], under_way: &[UnderWay], total: Resources) -> Choice {
    let Some(next) = next(candidates, under_way) else { return Choice::Nobody };
    let taken = under_way.iter().fold(Resources::default(), |sum, run| sum.plus(run.takes));
    // What needs more than there is at all would wait for ever: it is let through, and ended by whoever plans it.
    if !next.needs.within(total) || taken.plus(next.needs).within(total) {
        Choice::Starts(next.id)
    } else {
        Choice::Waits(next.id)
    }
}

fn next<'c>(candidates: &'c [Candidate], under_way: &[UnderWay]) -> Option<&'c Candidate> {
    let reserved = candidates.iter().filter(|run| run.reserved).min_by_key(|run| run.id);
    let count = |is: &dyn Fn(&UnderWay) -> bool| under_way.iter().filter(|run| is(run)).count();
    let of_project = |run: &Candidate| count(&|other| other.project == run.project);
    let of_owner = |run: &Candidate| count(&|other| other.owner == run.owner);
    // Priorities are given within a project, so they say nothing between two.
    let best = |run: &Candidate| {
        let before = |other: &&Candidate| other.project == run.project && other.priority > run.priority;
        !candidates.iter().any(|other| before(&other))
    };
    reserved.or_else(|| {
        let first = candidates.iter().filter(|run| best(run));
        first.min_by_key(|run| (of_project(run), of_owner(run), run.id))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOTAL: Resources = Resources { nano_cpus: 4, memory: 4 };

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0..3u8, 0..3u8, 0..2i64, 1..6u64, 1..6u64);
        prop::collection::vec(one, 0..12).prop_map(|all| {
            let waiting = all.into_iter().zip(1..);
            let candidate = |((project, owner, priority, nano_cpus, memory), id)| Candidate {
                id,
                project: format!("p{project}"),
                owner: format!("o{owner}"),
                priority,
                reserved: false,
                needs: Resources { nano_cpus, memory },
            };
            waiting.map(candidate).collect()
        })
    }

    fn under_way() -> impl Strategy<Value = Vec<UnderWay>> {
        let one = (0..3u8, 0..3u8, 0..2u64, 0..2u64);
        prop::collection::vec(one, 0..6).prop_map(|all| {
            let run = |(project, owner, nano_cpus, memory)| UnderWay {
                project: format!("p{project}"),
                owner: format!("o{owner}"),
                takes: Resources { nano_cpus, memory },
            };
            all.into_iter().map(run).collect()
        })
    }

    /// The rule word by word: from all that wait, one after the other is left out.
    fn by_the_rule(candidates: &[Candidate], under_way: &[UnderWay]) -> Option<i64> {
        let mut left: Vec<&Candidate> = candidates.iter().collect();
        left.retain(|run| {
            let mine = candidates.iter().filter(|other| other.project == run.project);
            Some(run.priority) == mine.map(|other| other.priority).max()
        });
        let fewest = |left: &mut Vec<&Candidate>, count: &dyn Fn(&Candidate) -> usize| {
            let least = left.iter().map(|run| count(run)).min();
            left.retain(|run| Some(count(run)) == least);
        };
        fewest(&mut left, &|run| under_way.iter().filter(|other| other.project == run.project).count());
        fewest(&mut left, &|run| under_way.iter().filter(|other| other.owner == run.owner).count());
        left.iter().map(|run| run.id).min()
    }

    fn chosen(choice: Choice) -> Option<i64> {
        match choice {
            Choice::Nobody => None,
            Choice::Waits(id) | Choice::Starts(id) => Some(id),
        }
    }

    proptest! {
        #[test]
        fn the_next_is_the_one_of_the_rule(all in candidates(), busy in under_way()) {
            prop_assert_eq!(chosen(choose(&all, &busy, TOTAL)), by_the_rule(&all, &busy));
        }

        #[test]
        fn who_is_reserved_is_next_whoever_comes(mut all in candidates(), busy in under_way(), at in 0..12usize) {
            if let Some(run) = all.get_mut(at) {
                run.reserved = true;
                let id = run.id;
                prop_assert_eq!(chosen(choose(&all, &busy, TOTAL)), Some(id));
            }
        }

        /// Runs come, start and end in any order, with room for all of them one by one: what runs never takes more than
        /// there is, and who has waited for room is the next to start.
        #[test]
        fn nothing_takes_too_much_and_nobody_starves(all in candidates(), ends in prop::collection::vec(0..4usize, 60)) {
            let mut all = all;
            for run in &mut all {
                run.needs = Resources { nano_cpus: run.needs.nano_cpus.min(4), memory: run.needs.memory.min(4) };
            }
            let (mut waiting, mut busy, mut reserved) = (all, Vec::<UnderWay>::new(), None);
            for end in ends {
                match choose(&waiting, &busy, TOTAL) {
                    Choice::Nobody => {}
                    Choice::Waits(id) => {
                        prop_assert!(reserved.is_none_or(|other| other == id));
                        reserved = Some(id);
                        waiting.iter_mut().filter(|run| run.id == id).for_each(|run| run.reserved = true);
                        prop_assert!(!busy.is_empty(), "it waits for nothing");
                        busy.remove(end % busy.len());
                    }
                    Choice::Starts(id) => {
                        prop_assert!(reserved.is_none_or(|other| other == id), "{id} overtook {reserved:?}");
                        reserved = None;
                        let at = waiting.iter().position(|run| run.id == id).expect("one that waits");
                        let Candidate { project, owner, needs, .. } = waiting.remove(at);
                        busy.push(UnderWay { project, owner, takes: needs });
                        let taken = busy.iter().fold(Resources::default(), |sum, run| sum.plus(run.takes));
                        prop_assert!(taken.within(TOTAL), "{taken:?}");
                    }
                }
            }
            prop_assert!(waiting.is_empty(), "{waiting:?} starved");
        }
    }

    #[test]
    fn what_never_fits_is_let_through_to_be_ended() {
        let large = Resources { nano_cpus: 1, memory: 5 };
        let run = Candidate {
            id: 1,
            project: "p".into(),
            owner: "o".into(),
            priority: 0,
            reserved: false,
            needs: large,
        };
        let busy = UnderWay { project: "p".into(), owner: "o".into(), takes: TOTAL };
        assert_eq!(choose(std::slice::from_ref(&run), std::slice::from_ref(&busy), TOTAL), Choice::Starts(1));
        let fits = Candidate { needs: TOTAL, ..run };
        assert_eq!(choose(std::slice::from_ref(&fits), &[busy], TOTAL), Choice::Waits(1));
        assert_eq!(choose(&[fits], &[], TOTAL), Choice::Starts(1));
    }
}
