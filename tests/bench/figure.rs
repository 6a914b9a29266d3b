//! What is measured, in which unit, and what must be reached.

use std::ops::Not as _;

use serde_json::{Value, json};

use crate::server::Peer;

/// A figure. The names are what the lines begin with; sizes in them are those of the full form.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) goals: &'static [Goal],
}

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What Torno must reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// So many times what the peer reaches, at least.
    Ratio(Peer, f64),
    /// Itself this much at most, in the figure's unit.
    AtMost(f64),
}

/// Every figure with its goals, in the order in which they are measured. This is the only place where they stand.
pub(crate) const FIGURES: [Figure; 16] = [
    Figure {
        name: "pull-1gib",
        unit: "GB/s",
        better: Better::Higher,
        goals: &[Goal::Ratio(Peer::Nginx, 1.0)],
    },
    Figure {
        name: "pull-1mib",
        unit: "blobs/s",
        better: Better::Higher,
        goals: &[Goal::Ratio(Peer::Nginx, 0.9)],
    },
    Figure {
        name: "manifest",
        unit: "pulls/s",
        better: Better::Higher,
        goals: &[Goal::Ratio(Peer::Nginx, 0.8)],
    },
    Figure {
        name: "manifest-token",
        unit: "pulls/s",
        better: Better::Higher,
        goals: &[Goal::Ratio(Peer::Nginx, 0.8)],
    },
    Figure {
        name: "push-1gib",
        unit: "GB/s",
        better: Better::Higher,
        goals: &[Goal::Ratio(Peer::Distribution, 5.5), Goal::Ratio(Peer::Openssl, 0.7)],
    },
    Figure {
        name: "small-images",
        unit: "images/s",
        better: Better::Higher,
        goals: &[Goal::Ratio(Peer::Distribution, 15.0)],
    },
    Figure { name: "tags-page", unit: "ms", better: Better::Lower, goals: PAGE },
    Figure { name: "catalog-page", unit: "ms", better: Better::Lower, goals: PAGE },
    Figure { name: "referrers-page", unit: "ms", better: Better::Lower, goals: PAGE },
    Figure { name: "memory", unit: "MiB", better: Better::Lower, goals: &[Goal::AtMost(64.0)] },
    Figure { name: "tls-pull-1gib", unit: "GB/s", better: Better::Higher, goals: TLS },
    Figure { name: "tls-pull-1mib", unit: "blobs/s", better: Better::Higher, goals: TLS },
    Figure { name: "tls-push-1gib", unit: "GB/s", better: Better::Higher, goals: TLS },
    // What a run adds to doing the same by hand: at most three tenths of a small one, a twentieth of a large one.
    Figure {
        name: "push-result",
        unit: "s",
        better: Better::Lower,
        goals: &[Goal::Ratio(Peer::Hand, 1.0 / 1.3)],
    },
    Figure {
        name: "push-result-500mb",
        unit: "s",
        better: Better::Lower,
        goals: &[Goal::Ratio(Peer::Hand, 1.0 / 1.05)],
    },
    // The last, since file systems are slow for a while after so many files have gone.
    Figure { name: "gc", unit: "s", better: Better::Lower, goals: &[Goal::AtMost(2.0)] },
];

/// At most twice the time of a page of little.
const PAGE: &[Goal] = &[Goal::Ratio(Peer::Small, 0.5)];
const TLS: &[Goal] = &[Goal::Ratio(Peer::Nginx, 0.9)];

impl Figure {
    /// The figure of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        FIGURES.iter().find(|figure| figure.name == name)
    }
}

/// What each round gave, in the figure's unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The one in the middle; of an even number, the upper of the two.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// A figure that was measured.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) figure: &'static Figure,
    pub(crate) torno: Samples,
    pub(crate) peers: Vec<(Peer, Samples)>,
}

impl Measured {
    /// How many times better than a peer Torno is; above 1 it is better, whichever way the figure goes.
    fn ratio(&self, peer: &Samples) -> f64 {
        match self.figure.better {
            Better::Higher => self.torno.median() / peer.median(),
            Better::Lower => peer.median() / self.torno.median(),
        }
    }

    /// `bench <name> torno=<x> <peer>=<y> ratio=<r> unit=<u>`, one for each peer. Without any, Torno's own value.
    pub(crate) fn lines(&self) -> Vec<String> {
        if self.peers.is_empty() {
            let Figure { name, unit, .. } = self.figure;
            return vec![format!("bench {name} torno={} unit={unit}", number(self.torno.median()))];
        }
        let line = |(peer, samples): &(Peer, Samples)| {
            format!(
                "bench {} torno={} {peer}={} ratio={} unit={}",
                self.figure.name,
                number(self.torno.median()),
                number(samples.median()),
                number(self.ratio(samples)),
                self.figure.unit
            )
        };
        self.peers.iter().map(line).collect()
    }

    /// What must be reached and is not, one sentence each.
    pub(crate) fn missed(&self) -> Vec<String> {
        self.figure.goals.iter().filter_map(|goal| self.misses(*goal)).collect()
    }

    fn misses(&self, goal: Goal) -> Option<String> {
        let name = self.figure.name;
        match goal {
            Goal::Ratio(peer, least) => {
                let (_, samples) = self.peers.iter().find(|(found, _)| *found == peer)?;
                let ratio = self.ratio(samples);
                let missed = format!("{name} {peer} ratio={} must reach {least}", number(ratio));
                reaches(ratio, least).not().then_some(missed)
            }
            Goal::AtMost(most) => {
                let value = self.torno.median();
                let unit = self.figure.unit;
                let missed = format!("{name} torno={} must be at most {most} {unit}", number(value));
                reaches(most, value).not().then_some(missed)
            }
        }
    }

    /// The same as the lines, a value for each peer, with every round.
    pub(crate) fn json(&self) -> Vec<Value> {
        let value = |(peer, samples): &(Peer, Samples)| {
            json!({
                "name": self.figure.name,
                "unit": self.figure.unit,
                "better": match self.figure.better { Better::Higher => "higher", Better::Lower => "lower" },
                "torno": self.torno.median(),
                "peer": peer.to_string(),
                "peer_value": samples.median(),
                "ratio": self.ratio(samples),
                "rounds": {"torno": self.torno.0, "peer": samples.0},
            })
        };
        self.peers.iter().map(value).collect()
    }
}

/// Whether a value is at least the mark. What is not a number reaches nothing.
fn reaches(value: f64, mark: f64) -> bool {
    value >= mark
}

/// A number with three digits that count, or more where it has more before the point.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(name: &str, torno: &[f64], peers: &[(Peer, f64)]) -> Measured {
        let peers = peers.iter().map(|(peer, value)| (*peer, Samples(vec![*value]))).collect();
        Measured { figure: Figure::named(name).expect("a figure"), torno: Samples(torno.to_vec()), peers }
    }

    #[test]
    fn a_ratio_above_one_is_better_either_way() {
        let pull = measured("pull-1gib", &[9.0, 3.0, 1.0], &[(Peer::Nginx, 2.0)]);
        assert_eq!(pull.lines(), ["bench pull-1gib torno=3.00 nginx=2.00 ratio=1.50 unit=GB/s"]);
        let memory = measured("memory", &[50.0], &[(Peer::Distribution, 200.0)]);
        assert_eq!(memory.lines(), ["bench memory torno=50.0 distribution=200 ratio=4.00 unit=MiB"]);
    }

    #[test]
    fn goals_are_met_at_the_mark_and_missed_below_it() {
        let push = |distribution, openssl| {
            let peers = [(Peer::Distribution, distribution), (Peer::Openssl, openssl)];
            measured("push-1gib", &[0.5], &peers).missed().len()
        };
        assert_eq!(push(0.0625, 0.625), 0);
        assert_eq!(push(0.0625, 1.0), 1);
        assert_eq!(push(0.125, 1.0), 2);
        assert_eq!(measured("memory", &[64.0], &[]).missed().len(), 0);
        assert_eq!(measured("memory", &[64.1], &[]).missed().len(), 1);
        assert_eq!(measured("memory", &[f64::NAN], &[]).missed().len(), 1);
    }
}
