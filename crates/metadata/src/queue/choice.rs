//! Whose turn it is: a pure function.
//!
//! The next run is of the project with the fewest runs under way; within it, what a custodian has moved up comes first,
//! then the person with the fewest runs under way, then the oldest. Between projects with as many, the same decides.
//! A run that is next and does not fit waits for room, and everything else waits with it: so a large run waits for what
//! is under way at that moment and for nothing that comes later. While all it waits for is GPUs, what needs none goes on
//! beside it, by the same rule: so it waits for the GPUs that are in use at that moment, and, once it has them, for room as any
//! other does. Nothing that needs a GPU passes it.

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
    /// How many of the GPUs it needs it has kept of an attempt that was lost.
    pub(super) keeps: u32,
}

/// A run that takes room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnderWay {
    pub(super) project: String,
    pub(super) owner: String,
    pub(super) takes: Resources,
}

/// What becomes of the queue now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice<'c> {
    /// Those that are next and wait: the one that waits for GPUs, and the one that waits for other room.
    pub(super) waits: Vec<i64>,
    /// The one that starts.
    pub(super) starts: Option<&'c Candidate>,
}

/// Who is next, and whether there is room for it in `total`, of which so many GPUs are nobody's.
pub(super) fn choose<'c>(
    candidates: &'c [Candidate],
    under_way: &[UnderWay],
    free_gpus: u32,
    total: Resources,
) -> Choice<'c> {
    let mut choice = Choice::default();
    let mut left: Vec<&Candidate> = candidates.iter().collect();
    let taken = under_way.iter().fold(Resources::default(), |sum, run| sum.plus(run.takes));
    while let Some(next) = next(&left, under_way) {
        // What needs more than there is at all would wait for ever: it is let through, and ended by whoever plans it.
        if !next.needs.within(total) {
            choice.starts = Some(next);
        } else if next.needs.gpus.saturating_sub(next.keeps) > free_gpus {
            choice.waits.push(next.id);
            left.retain(|run| run.needs.gpus == 0);
            continue;
        } else if taken.plus(Resources { gpus: 0, ..next.needs }).within(total) {
            choice.starts = Some(next);
        } else {
            choice.waits.push(next.id);
        }
        break;
    }
    choice
}

fn next<'c>(candidates: &[&'c Candidate], under_way: &[UnderWay]) -> Option<&'c Candidate> {
    let candidates = candidates.iter().copied();
    let reserved = candidates.clone().filter(|run| run.reserved).min_by_key(|run| run.id);
    let count = |is: &dyn Fn(&UnderWay) -> bool| under_way.iter().filter(|run| is(run)).count();
    let of_project = |run: &Candidate| count(&|other| other.project == run.project);
    let of_owner = |run: &Candidate| count(&|other| other.owner == run.owner);
    // Priorities are given within a project, so they say nothing between two.
    let best = |run: &Candidate| {
        let before = |other: &Candidate| other.project == run.project && other.priority > run.priority;
        !candidates.clone().any(before)
    };
    reserved.or_else(|| {
        let first = candidates.clone().filter(|run| best(run));
        first.min_by_key(|run| (of_project(run), of_owner(run), run.id))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOTAL: Resources = Resources { nano_cpus: 4, memory: 4, gpus: 3 };

    /// Any that wait. Those of one project need as many GPUs, as in a configuration.
    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0..3u8, 0..3u8, 0..2i64, 1..6u64, 1..6u64);
        let gpus = prop::array::uniform3(0..4u32);
        (prop::collection::vec(one, 0..12), gpus).prop_map(|(all, gpus)| {
            let waiting = all.into_iter().zip(1..);
            let candidate = |((project, owner, priority, nano_cpus, memory), id)| Candidate {
                id,
                project: format!("p{project}"),
                owner: format!("o{owner}"),
                priority,
                reserved: false,
                needs: Resources { nano_cpus, memory, gpus: gpus[usize::from(project)] },
                keeps: 0,
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
                takes: Resources { nano_cpus, memory, gpus: 0 },
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

    /// Who was next, whether it starts or not.
    fn chosen(choice: &Choice<'_>) -> Option<i64> {
        choice.waits.first().copied().or(choice.starts.map(|run| run.id))
    }

    proptest! {
        #[test]
        fn the_next_is_the_one_of_the_rule(all in candidates(), busy in under_way(), free in 0..4u32) {
            let choice = choose(&all, &busy, free, TOTAL);
            prop_assert_eq!(chosen(&choice), by_the_rule(&all, &busy));
            // Beside one that waits for GPUs goes on what would be next if nothing that needs one were there.
            let short = |id: &i64| all.iter().any(|run| run.id == *id && run.needs.gpus > free);
            if choice.waits.first().is_some_and(short) {
                let others: Vec<_> = all.iter().filter(|run| run.needs.gpus == 0).cloned().collect();
                let beside = choose(&others, &busy, free, TOTAL);
                prop_assert_eq!(choice.starts, beside.starts);
                prop_assert_eq!(&choice.waits[1..], &beside.waits[..]);
            }
        }

        #[test]
        fn who_is_reserved_is_next_whoever_comes(mut all in candidates(), busy in under_way(), at in 0..12usize) {
            if let Some(run) = all.get_mut(at) {
                run.reserved = true;
                let id = run.id;
                prop_assert_eq!(chosen(&choose(&all, &busy, 0, TOTAL)), Some(id));
            }
        }

        /// Runs come, start and end in any order, with room for all of them one by one: what runs never takes more than
        /// there is, who has waited for room is the next to start, and only what needs no GPU passes who waits for one.
        #[test]
        fn nothing_takes_too_much_and_nobody_starves(all in candidates(), ends in prop::collection::vec(0..4usize, 90)) {
            let mut all = all;
            for run in &mut all {
                let needs = run.needs;
                run.needs = Resources { nano_cpus: needs.nano_cpus.min(4), memory: needs.memory.min(4), ..needs };
            }
            let (mut waiting, mut busy) = (all, Vec::<(UnderWay, u32)>::new());
            for end in ends {
                let others: Vec<_> = busy.iter().map(|(run, _)| run.clone()).collect();
                let free = TOTAL.gpus - busy.iter().map(|(_, gpus)| gpus).sum::<u32>();
                let Choice { waits, starts } = choose(&waiting, &others, free, TOTAL);
                let starts = starts.cloned();
                let reserved: Vec<_> = waiting.iter().filter(|run| run.reserved).cloned().collect();
                for id in &waits {
                    prop_assert!(!busy.is_empty(), "{id} waits for nothing");
                    waiting.iter_mut().filter(|run| run.id == *id).for_each(|run| run.reserved = true);
                }
                if let Some(run) = starts {
                    for other in reserved.iter().filter(|other| other.id != run.id) {
                        let passes = other.needs.gpus > free && run.needs.gpus == 0;
                        prop_assert!(passes || run.reserved, "{run:?} overtook {other:?}");
                    }
                    waiting.retain(|other| other.id != run.id);
                    let takes = Resources { gpus: 0, ..run.needs };
                    busy.push((UnderWay { project: run.project, owner: run.owner, takes }, run.needs.gpus));
                    let taken = busy.iter().fold(Resources::default(), |sum, (run, _)| sum.plus(run.takes));
                    let gpus = busy.iter().map(|(_, gpus)| gpus).sum();
                    prop_assert!(Resources { gpus, ..taken }.within(TOTAL), "{taken:?} and {gpus} GPUs");
                } else if !busy.is_empty() {
                    busy.remove(end % busy.len());
                }
            }
            prop_assert!(waiting.is_empty(), "{waiting:?} starved");
        }
    }

    fn candidate(id: i64, needs: Resources) -> Candidate {
        let (project, owner) = (format!("p{id}"), "o".into());
        Candidate { id, project, owner, priority: 0, reserved: false, needs, keeps: 0 }
    }

    fn starts(choice: &Choice<'_>) -> Option<i64> {
        choice.starts.map(|run| run.id)
    }

    #[test]
    fn what_never_fits_is_let_through_to_be_ended() {
        let busy = UnderWay { project: "p".into(), owner: "o".into(), takes: Resources { gpus: 0, ..TOTAL } };
        let busy = std::slice::from_ref(&busy);
        let never =
            [Resources { nano_cpus: 1, memory: 5, gpus: 0 }, Resources { gpus: 4, ..Resources::default() }];
        for needs in never {
            assert_eq!(starts(&choose(&[candidate(1, needs)], busy, 0, TOTAL)), Some(1));
        }
        let fits = [candidate(1, TOTAL)];
        assert_eq!(choose(&fits, busy, 3, TOTAL), Choice { waits: vec![1], starts: None });
        assert_eq!(starts(&choose(&fits, &[], 3, TOTAL)), Some(1));
    }

    #[test]
    fn gpus_are_waited_for_by_those_that_need_them() {
        let gpus = |gpus| Resources { nano_cpus: 1, memory: 1, gpus };
        let all =
            [candidate(1, gpus(2)), candidate(2, gpus(1)), candidate(3, gpus(0)), candidate(4, gpus(0))];
        // The first lacks one, and the second, for which there is one, does not pass it.
        assert_eq!(choose(&all, &[], 1, TOTAL), Choice { waits: vec![1], starts: Some(&all[2]) });
        assert_eq!(choose(&all[..2], &[], 1, TOTAL), Choice { waits: vec![1], starts: None });
        assert_eq!(starts(&choose(&all, &[], 2, TOTAL)), Some(1));
        // What it has kept it need not find.
        let mut kept = all.clone();
        kept[0].keeps = 1;
        assert_eq!(starts(&choose(&kept, &[], 1, TOTAL)), Some(1));
        // With its GPUs there and no other room, it is next and holds up all.
        let takes = Resources { nano_cpus: 4, memory: 0, gpus: 0 };
        let busy = [UnderWay { project: "p".into(), owner: "o".into(), takes }];
        assert_eq!(choose(&all, &busy, 2, TOTAL), Choice { waits: vec![1], starts: None });
        // And whatever goes on beside it waits for other room as ever.
        assert_eq!(choose(&all, &busy, 1, TOTAL), Choice { waits: vec![1, 3], starts: None });
    }
}
