use proptest::prelude::*;
use torno_oci::Digest;

use crate::RunState;

use super::*;

fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).expect("a time")
}

fn image(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

fn admission(text: &str, rerun: Rerun, quotas: Vec<(Account, RunQuota)>) -> Admission {
    let media_type = "application/vnd.oci.image.manifest.v1+json".parse().expect("a type");
    Admission { run: NewRun { image: image(text), media_type }, rerun, quotas }
}

/// Pushes tags of `run/<project>/<owner>` in the owner's name.
async fn push(
    metadata: &Metadata,
    (project, owner): (&str, &str),
    tags: &[&str],
    admission: Admission,
    now: Timestamp,
) -> Result<Queued, TooManyRuns> {
    let name: RepositoryName = format!("run/{project}/{owner}").parse().expect("a name");
    let owner: UserName = owner.parse().expect("a name");
    let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().expect("a tag")).collect();
    let admit = move |connection: &Connection| admit(connection, &name, &tags, &owner, &admission, now);
    metadata.write(admit).await.expect("written")
}

async fn queue_one(metadata: &Metadata, of: (&str, &str)) -> u64 {
    let pushed = push(metadata, of, &["v"], admission("a", Rerun::Always, Vec::new()), moment(0)).await;
    pushed.expect("queued").runs[0].1.number()
}

fn open() -> (tempfile::TempDir, Metadata) {
    let folder = tempfile::tempdir().expect("folder");
    let metadata = Metadata::open(&folder.path().join("torno.db")).expect("open");
    (folder, metadata)
}

fn needs(of: &[(&str, u64)]) -> BTreeMap<ProjectName, Resources> {
    let needs = |&(project, nano_cpus): &(&str, u64)| {
        (project.parse().expect("a name"), Resources { nano_cpus, memory: 0, gpus: 0 })
    };
    of.iter().map(needs).collect()
}

async fn claim(metadata: &Metadata, needs: &BTreeMap<ProjectName, Resources>, nano_cpus: u64) -> Option<u64> {
    let total = Resources { nano_cpus, memory: 0, gpus: 0 };
    metadata
        .claim_run([0; 32], needs.clone(), BTreeSet::new(), total)
        .await
        .expect("claimed")
        .map(|claim| claim.run.id.number())
}

async fn end(metadata: &Metadata, run: u64) {
    let sql = "UPDATE runs SET state = 'finished', outcome = '{\"kind\":\"succeeded\"}', finished_at = 1 WHERE id = ?1";
    metadata.write(move |connection| execute(connection, sql, [integer(run)])).await.expect("ended");
}

#[tokio::test]
async fn what_runs_never_takes_more_than_there_is_and_the_large_one_gets_its_turn() {
    let (_folder, metadata) = open();
    let needs = needs(&[("small", 1), ("large", 4)]);
    let first = queue_one(&metadata, ("small", "ada")).await;
    let second = queue_one(&metadata, ("small", "bob")).await;
    assert_eq!(claim(&metadata, &needs, 4).await, Some(first));
    assert_eq!(claim(&metadata, &needs, 4).await, Some(second));
    let large = queue_one(&metadata, ("large", "eve")).await;
    let small = queue_one(&metadata, ("small", "ada")).await;
    // It is next and does not fit: nothing overtakes it, whoever has how many.
    assert_eq!(claim(&metadata, &needs, 4).await, None);
    let other = queue_one(&metadata, ("other", "zoe")).await;
    end(&metadata, first).await;
    assert_eq!(claim(&metadata, &needs, 4).await, None);
    end(&metadata, second).await;
    assert_eq!(claim(&metadata, &needs, 4).await, Some(large));
    assert_eq!(claim(&metadata, &needs, 4).await, None, "there is no room beside it");
    end(&metadata, large).await;
    assert_eq!(claim(&metadata, &needs, 4).await, Some(small));
    assert_eq!(claim(&metadata, &needs, 4).await, Some(other));
    assert_eq!(claim(&metadata, &needs, 4).await, None, "nobody waits");
}

#[tokio::test]
async fn a_lost_run_is_claimed_again_in_its_time_and_nothing_is_left_of_the_attempt() {
    let (_folder, metadata) = open();
    let first = queue_one(&metadata, ("p", "ada")).await;
    let second = queue_one(&metadata, ("p", "ada")).await;
    let id = RunId::new(first).expect("a number");
    assert!(metadata.lost_run(id, moment(0)).await.is_err(), "nobody has begun it");
    assert_eq!(claim(&metadata, &BTreeMap::new(), 1).await, Some(first));
    let sql = "UPDATE runs SET state = 'running', started_at = 1, time_limit = 1, given = '{}', peak_memory = 1, cpu_time = 1
        WHERE id = ?1";
    let begin = move |connection: &Connection| execute(connection, sql, [integer(first)]);
    metadata.write(begin).await.expect("begun");
    metadata.note_run_data(id, "d", "d", None).await.expect("noted");

    let later = Timestamp::now().checked_add(Duration::from_hours(1)).expect("a time");
    let later = Timestamp::from_millisecond(later.as_millisecond()).expect("a time");
    metadata.lost_run(id, later).await.expect("lost");
    let run = metadata.run(id).await.expect("asked").expect("a run");
    assert_eq!((run.state, run.attempt, run.not_before), (RunState::Queued, 1, Some(later)));
    assert_eq!((run.started_at, run.time_limit, run.given), (None, None, None));
    assert_eq!(run.measured, crate::Measured::default());
    assert!(metadata.run_data(id).await.expect("asked").is_empty());
    assert_eq!(metadata.next_due().await.expect("asked"), Some(later));
    // Others of the same person do not wait for it.
    assert_eq!(claim(&metadata, &BTreeMap::new(), 1).await, Some(second));
    assert_eq!(claim(&metadata, &BTreeMap::new(), 1).await, None);

    let sql = "UPDATE runs SET not_before = 1 WHERE id = ?1";
    let elapse = move |connection: &Connection| execute(connection, sql, [integer(first)]);
    metadata.write(elapse).await.expect("elapsed");
    assert_eq!(metadata.next_due().await.expect("asked"), None);
    assert_eq!(claim(&metadata, &BTreeMap::new(), 1).await, Some(first));
    let run = metadata.run(id).await.expect("asked").expect("a run");
    assert_eq!((run.attempt, run.not_before), (2, None));
    end(&metadata, first).await;
    assert!(metadata.lost_run(id, moment(0)).await.is_err(), "it is over");
}

#[tokio::test]
async fn an_outage_is_known_while_it_lasts() {
    let (_folder, metadata) = open();
    for since in [None, Some(moment(1)), Some(moment(2)), None, None] {
        metadata.note_outage(since).await.expect("noted");
        assert_eq!(metadata.outage().await.expect("asked"), since);
    }
}

#[tokio::test]
async fn projects_that_are_held_wait_and_what_was_noted_of_them_keeps_its_time() {
    let (_folder, metadata) = open();
    let project = |name: &str| name.parse::<ProjectName>().expect("a name");
    let set = |names: &[&str]| names.iter().map(|name| project(name)).collect::<BTreeSet<_>>();
    let sealed = queue_one(&metadata, ("sealed", "ada")).await;
    let plain = queue_one(&metadata, ("plain", "ada")).await;
    let claimed = |held: BTreeSet<ProjectName>| async {
        let claimed = metadata.claim_run([0; 32], BTreeMap::new(), held, Resources::UNBOUNDED).await;
        claimed.expect("claimed").map(|claim| claim.run.id.number())
    };
    assert_eq!(claimed(set(&["plain", "sealed"])).await, None);
    assert_eq!(claimed(set(&["sealed"])).await, Some(plain));
    assert_eq!(claimed(set(&["sealed"])).await, None);
    metadata.note_unfit(set(&["sealed"]), moment(1)).await.expect("noted");
    metadata.note_unfit(set(&["other", "sealed"]), moment(2)).await.expect("noted");
    let id = |number| RunId::new(number).expect("a number");
    assert_eq!(metadata.unfit_of(id(sealed)).await.expect("asked"), Some(moment(1)));
    assert_eq!(metadata.unfit_of(id(plain)).await.expect("asked"), None);
    let both = BTreeMap::from([(project("other"), moment(2)), (project("sealed"), moment(1))]);
    assert_eq!(metadata.unfit().await.expect("asked"), both);
    metadata.note_unfit(set(&[]), moment(3)).await.expect("noted");
    assert_eq!(metadata.unfit_of(id(sealed)).await.expect("asked"), None);
    assert_eq!(claimed(set(&[])).await, Some(sealed));
}

#[tokio::test]
async fn places_in_the_queue_are_those_of_the_project() {
    let (_folder, metadata) = open();
    let others = queue_one(&metadata, ("other", "ada")).await;
    let mine = [queue_one(&metadata, ("p", "ada")).await, queue_one(&metadata, ("p", "bob")).await];
    for (run, before) in [(others, 0), (mine[0], 0), (mine[1], 1)] {
        let id = RunId::new(run).expect("a number");
        assert_eq!(metadata.runs_before(id).await.expect("counted"), before, "run {run}");
    }
}

#[tokio::test]
async fn a_quota_holds_up_to_its_limit_and_says_when_there_is_room() {
    let (_folder, metadata) = open();
    let ada = Account::Owner("ada".parse().expect("a name"));
    let project = Account::Project("p".parse().expect("a name"));
    let three = |account: &Account| {
        let quota = RunQuota { queued: None, daily: Some(3) };
        admission("a", Rerun::Always, vec![(account.clone(), quota)])
    };
    push(&metadata, ("p", "ada"), &["a", "b"], three(&ada), moment(0)).await.expect("two");
    push(&metadata, ("q", "ada"), &["a"], three(&ada), moment(60)).await.expect("three");
    let refused = push(&metadata, ("p", "ada"), &["c"], three(&ada), moment(120)).await.expect_err("four");
    assert_eq!((refused.counted, refused.present, refused.added), (Counted::Daily, 3, 1));
    let day = 24 * 60 * 60;
    assert_eq!(refused.room, Some(moment(day)));
    let refused = push(&metadata, ("p", "ada"), &["c", "d", "e"], three(&ada), moment(120)).await;
    assert_eq!(refused.expect_err("six").room, Some(moment(day + 60)));
    let never = push(&metadata, ("p", "ada"), &["a", "b", "c", "d"], three(&ada), moment(120)).await;
    assert_eq!(never.expect_err("seven").room, None, "four are more than three at any time");
    // Others are others, and a project counts everybody's in it.
    push(&metadata, ("p", "bob"), &["a"], three(&project), moment(120)).await.expect("three in it");
    push(&metadata, ("p", "bob"), &["b"], three(&project), moment(120)).await.expect_err("four in it");
    let late = push(&metadata, ("p", "ada"), &["c"], three(&ada), moment(day - 1)).await;
    late.expect_err("a second early");
    push(&metadata, ("p", "ada"), &["c"], three(&ada), moment(day)).await.expect("a day later");
}

#[tokio::test]
async fn those_that_wait_are_counted_until_they_are_claimed() {
    let (_folder, metadata) = open();
    let quota = RunQuota { queued: Some(1), daily: None };
    let one = || admission("a", Rerun::Always, vec![(Account::Owner("ada".parse().expect("a name")), quota)]);
    push(&metadata, ("p", "ada"), &["a"], one(), moment(0)).await.expect("one");
    let refused = push(&metadata, ("p", "ada"), &["a"], one(), moment(0)).await.expect_err("two");
    assert_eq!((refused.counted, refused.allowed, refused.room), (Counted::Queued, 1, None));
    assert!(claim(&metadata, &BTreeMap::new(), 1).await.is_some());
    push(&metadata, ("p", "ada"), &["a"], one(), moment(0)).await.expect("one again");
}

#[tokio::test]
async fn an_unchanged_image_does_not_run_again_where_the_project_says_so() {
    let (_folder, metadata) = open();
    let changed = |text| admission(text, Rerun::Changed, Vec::new());
    let of = ("p", "ada");
    let first = push(&metadata, of, &["v"], changed("a"), moment(0)).await.expect("pushed").runs[0].1;
    let again = push(&metadata, of, &["v", "w"], changed("a"), moment(1)).await.expect("pushed");
    assert_eq!(again.unchanged, [first]);
    assert_eq!(again.runs.len(), 1, "w is new");
    let always = admission("a", Rerun::Always, Vec::new());
    assert_eq!(push(&metadata, of, &["v"], always, moment(2)).await.expect("pushed").runs.len(), 1);
    let other = push(&metadata, of, &["v"], changed("b"), moment(3)).await.expect("pushed");
    assert_eq!((other.runs.len(), other.unchanged.len()), (1, 0));
    let back = push(&metadata, of, &["v"], changed("a"), moment(4)).await.expect("pushed");
    assert_eq!(back.runs.len(), 1, "the tag has been another's since");
    // One that has failed, or whose result is gone, runs again.
    end(&metadata, back.runs[0].1.number()).await;
    assert_eq!(push(&metadata, of, &["v"], changed("a"), moment(5)).await.expect("pushed").runs.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// What the database chooses from the oldest of each group is what would be chosen from all that wait.
    #[test]
    fn the_oldest_of_each_group_are_enough(
        pushes in prop::collection::vec((0..3u8, 0..3u8, 0..3i64), 1..20),
        slots in 1..4usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (_folder, metadata) = open();
            let mut waiting = Vec::new();
            for (project, owner, priority) in pushes {
                let (project, owner) = (format!("p{project}"), format!("o{owner}"));
                let id = queue_one(&metadata, (&project, &owner)).await;
                let sql = "UPDATE runs SET priority = ?2 WHERE id = ?1";
                let raise = move |connection: &Connection| execute(connection, sql, [integer(id), priority]);
                metadata.write(raise).await.expect("raised");
                let (id, needs) = (integer(id), Resources::default());
                waiting.push(Candidate { id, project, owner, priority, reserved: false, needs, keeps: 0 });
            }
            let (mut busy, mut seen) = (Vec::<(i64, UnderWay)>::new(), BTreeSet::new());
            while !waiting.is_empty() {
                let others: Vec<UnderWay> = busy.iter().map(|(_, run)| run.clone()).collect();
                let choice = choose(&waiting, &others, 0, Resources::UNBOUNDED);
                let expected = choice.starts.expect("somebody is next").id;
                let claimed = claim(&metadata, &BTreeMap::new(), 1).await.map(integer);
                assert_eq!(claimed, Some(expected));
                assert!(seen.insert(expected), "run {expected} was claimed twice");
                let at = waiting.iter().position(|run| run.id == expected).expect("it waits");
                let Candidate { project, owner, needs, .. } = waiting.remove(at);
                busy.push((expected, UnderWay { project, owner, takes: needs }));
                if busy.len() == slots {
                    let (ended, _) = busy.remove(0);
                    end(&metadata, u64::try_from(ended).expect("a number")).await;
                }
            }
        });
    }
}

/// What is done to runs that need GPUs.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Somebody pushes to a project that gives so many.
    Push(u32),
    /// Whoever is next is claimed.
    Claim,
    /// One of those under way ends.
    End(usize),
    /// The site fails one of those under way, which begins anew.
    Lose(usize),
    /// One of those in the queue, or that have ended, is found to have left nothing in the engine.
    Tidy(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..4u32).prop_map(Step::Push),
        3 => Just(Step::Claim),
        1 => (0..9usize).prop_map(Step::End),
        1 => (0..9usize).prop_map(Step::Lose),
        2 => (0..9usize).prop_map(Step::Tidy),
    ];
    prop::collection::vec(step, 1..50)
}

fn one_of(runs: &BTreeMap<u64, BTreeSet<Gpu>>, at: usize) -> Option<u64> {
    runs.keys().nth(at.checked_rem(runs.len())?).copied()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, also to a host that has fewer of them after a restart: no GPU is given to a run
    /// while the engine may hold something of another that had it, each run has as many as it needs, and in the end all
    /// are free.
    #[test]
    fn no_gpu_is_two_runs_at_once(steps in steps(), gpus in prop::array::uniform2(1..4u32)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (_folder, metadata) = open();
            let needs: BTreeMap<ProjectName, Resources> = (0..4)
                .map(|gpus| (format!("p{gpus}").parse().expect("a name"), Resources { gpus, ..Resources::default() }))
                .collect();
            let mut wanted = BTreeMap::new();
            // Who may use what: under way, or with something left in the engine; and those of the latter.
            let (mut busy, mut left) = (BTreeMap::new(), BTreeMap::new());
            let half = steps.len() / 2;
            for (at, step) in steps.into_iter().enumerate() {
                let gpus = gpus[usize::from(at > half)];
                let total = Resources { gpus, ..Resources::UNBOUNDED };
                match step {
                    Step::Push(gpus) => {
                        wanted.insert(queue_one(&metadata, (&format!("p{gpus}"), "ada")).await, gpus);
                    }
                    Step::Claim => {
                        let claim = metadata.claim_run([0; 32], needs.clone(), BTreeSet::new(), total).await.expect("claimed");
                        let Some(Claim { run, gpus: given }) = claim else { continue };
                        let (run, given) = (run.id.number(), given.into_iter().collect::<BTreeSet<_>>());
                        let fits = wanted[&run] <= gpus;
                        assert_eq!(given.len(), if fits { wanted[&run] as usize } else { 0 });
                        assert!(given.iter().all(|gpu| gpu.number() < gpus), "{given:?} of {gpus}");
                        for (other, theirs) in busy.iter().chain(&left).filter(|(other, _)| **other != run) {
                            assert!(given.is_disjoint(theirs), "{run} and {other} have {given:?} and {theirs:?}");
                        }
                        // Whoever looked after it while it waited is too late.
                        metadata.free_gpus(RunId::new(run).expect("a number")).await.expect("asked");
                        // It clears away what an attempt before has left and begins.
                        let mut given = given;
                        given.extend(left.remove(&run).unwrap_or_default());
                        busy.insert(run, given);
                    }
                    Step::End(at) => {
                        let Some(run) = one_of(&busy, at) else { continue };
                        end(&metadata, run).await;
                        left.extend(busy.remove_entry(&run));
                    }
                    Step::Lose(at) => {
                        let Some(run) = one_of(&busy, at) else { continue };
                        let id = RunId::new(run).expect("a number");
                        metadata.lost_run(id, moment(0)).await.expect("lost");
                        left.extend(busy.remove_entry(&run));
                    }
                    Step::Tidy(at) => {
                        let Some(run) = one_of(&left, at) else { continue };
                        let id = RunId::new(run).expect("a number");
                        if metadata.run(id).await.expect("asked").expect("a run").state == RunState::Queued {
                            metadata.free_gpus(id).await.expect("freed");
                        } else {
                            metadata.tidied_run(id).await.expect("tidied");
                        }
                        left.remove(&run);
                    }
                }
            }
            let keeping = metadata.runs_keeping_gpus().await.expect("asked");
            for run in keeping {
                assert!(left.contains_key(&run.number()), "{run} waits and has GPUs of nothing");
                metadata.free_gpus(run).await.expect("freed");
                left.remove(&run.number());
            }
            for run in busy.keys().chain(left.keys()) {
                let id = RunId::new(*run).expect("a number");
                end(&metadata, *run).await;
                metadata.tidied_run(id).await.expect("tidied");
            }
            let taken = metadata.read(gpu::taken).await.expect("asked");
            assert!(taken.is_empty(), "{taken:?} are nobody's and not free");
        });
    }
}
