//! Who may add to the queue of runs, and what they are told.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use torno_auth::{Policy, PushPermit, UserName};
use torno_metadata::{Account, Admission, Counted, NewRun, Rerun, RunQuota, TooManyRuns};
use torno_oci::RepositoryName;

use crate::{Registry, quota::account};

/// Why no more runs are queued, for whoever pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crowded(pub(crate) TooManyRuns);

impl Crowded {
    /// How long it is until there is room, if only time makes room.
    pub fn wait(&self) -> Option<Duration> {
        let wait = self.0.room?.duration_since(Timestamp::now());
        Some(Duration::try_from(wait).unwrap_or_default())
    }
}

impl std::error::Error for Crowded {}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooManyRuns { account, counted, present, allowed, added, room } = &self.0;
        match account {
            Account::Owner(name) => write!(f, "{name} has {present} ")?,
            Account::Project(name) => write!(f, "project `{name}` has {present} ")?,
        }
        match counted {
            Counted::Queued => write!(f, "of at most {allowed} runs in the queue")?,
            Counted::Daily => write!(f, "of at most {allowed} runs within 24 hours")?,
        }
        if *added > 1 {
            write!(f, ", and this push would add {added}")?;
        }
        match (counted, room) {
            _ if added > allowed => f.write_str("; push fewer tags at once"),
            (Counted::Queued, _) => {
                f.write_str("; push again when one of them has started, or has been cancelled")
            }
            (Counted::Daily, Some(room)) => {
                write!(f, "; there is room again at {}", room.strftime("%Y-%m-%d %H:%M:%SZ"))
            }
            (Counted::Daily, None) => f.write_str("; push again later"),
        }
    }
}

/// How many runs they may have whom a run of this repository is charged to.
pub(crate) fn run_quotas(
    policy: &Policy,
    repository: &RepositoryName,
    owner: &UserName,
) -> Vec<(Account, RunQuota)> {
    let quotas = policy.quotas(repository, owner).into_iter();
    let of_runs = |quota: torno_auth::Quota| RunQuota { queued: quota.queued_runs, daily: quota.daily_runs };
    quotas.map(|(charged, quota)| (account(&charged), of_runs(quota))).collect()
}

impl Registry {
    /// What must hold for a run to be queued.
    pub(crate) fn admission(&self, permit: &PushPermit, run: NewRun) -> Admission {
        let policy = self.policy();
        let quotas = run_quotas(&policy, permit.repository(), permit.owner());
        let rerun = match policy.rerun(permit.repository()) {
            torno_auth::Rerun::Always => Rerun::Always,
            torno_auth::Rerun::Changed => Rerun::Changed,
        };
        Admission { run, rerun, quotas }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_refused_is_told_when_to_come_back() {
        let account = Account::Owner("ada".parse().expect("a name"));
        let room = Timestamp::from_second(1_800_000_000).ok();
        let daily = TooManyRuns { account, counted: Counted::Daily, present: 3, allowed: 3, added: 1, room };
        let told = |crowded: &TooManyRuns| Crowded(crowded.clone()).to_string();
        let expected =
            "ada has 3 of at most 3 runs within 24 hours; there is room again at 2027-01-15 08:00:00Z";
        assert_eq!(told(&daily), expected);
        let many = TooManyRuns { added: 4, room: None, ..daily.clone() };
        let expected =
            "ada has 3 of at most 3 runs within 24 hours, and this push would add 4; push fewer tags at once";
        assert_eq!(told(&many), expected);
        let account = Account::Project("heart".parse().expect("a name"));
        let queued = TooManyRuns { account, counted: Counted::Queued, room: None, ..daily };
        let expected = "project `heart` has 3 of at most 3 runs in the queue; push again when one of them has started, \
                        or has been cancelled";
        assert_eq!(told(&queued), expected);
    }
}
