//! The command line.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{
    failure::Failure,
    figure::{FIGURES, Figure},
    scale::Scale,
    server::{Peer, Programs},
};

const USAGE: &str = "usage: torno-bench [--only NAME]… [--short] [--rounds N] [--strict] [--output FILE] \
    [--without PEER]…     [--torno PROGRAM] [--distribution PROGRAM]";

/// What is to be measured, with what.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) scale: Scale,
    /// Whether a missed goal is a failure.
    pub(crate) strict: bool,
    pub(crate) programs: Programs,
    /// Peers that are not to be compared with.
    pub(crate) without: Vec<Peer>,
    /// The folder of the build, which the work goes beside.
    pub(crate) target: PathBuf,
    /// Where the JSON goes.
    pub(crate) output: PathBuf,
    only: Vec<&'static Figure>,
}

impl Arguments {
    /// Those of this process.
    pub(crate) fn of_command_line() -> Result<Self, Failure> {
        let own = env::current_exe().map_err(Failure::io("this program's path is not known"))?;
        let words = env::args_os().skip(1).map(|word| {
            word.into_string().map_err(|word| Failure::Usage(format!("{} is not UTF-8", word.display())))
        });
        Self::parse(&own, words.collect::<Result<Vec<_>, _>>()?)
    }

    /// `own` is `target/<profile>/torno-bench`: Torno is beside it, and the report goes to `target/bench.json`.
    fn parse(own: &Path, words: Vec<String>) -> Result<Self, Failure> {
        let profile = own.parent().unwrap_or(Path::new("."));
        let target = profile.parent().unwrap_or(Path::new(".")).to_owned();
        let mut this = Self {
            scale: Scale::full(),
            strict: false,
            programs: Programs { torno: profile.join("torno"), distribution: "docker-registry".into() },
            output: target.join("bench.json"),
            target,
            without: Vec::new(),
            only: Vec::new(),
        };
        let mut rounds = None;
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value =
                || words.next().ok_or_else(|| Failure::Usage(format!("{word} needs a value\n{USAGE}")));
            match word.as_str() {
                "--short" => this.scale = Scale::short(),
                "--strict" => this.strict = true,
                "--only" => this.only.push(figure(&value()?)?),
                "--without" => this.without.push(peer(&value()?)?),
                "--rounds" => rounds = Some(count(&value()?)?),
                "--output" => this.output = value()?.into(),
                "--torno" => this.programs.torno = value()?.into(),
                "--distribution" => this.programs.distribution = value()?.into(),
                other => return Err(Failure::Usage(format!("`{other}` is no argument\n{USAGE}"))),
            }
        }
        if let Some(rounds) = rounds {
            this.scale.rounds = rounds;
        }
        Ok(this)
    }

    /// The figures to measure, in the order of [`FIGURES`].
    pub(crate) fn figures(&self) -> impl Iterator<Item = &'static Figure> {
        let wanted =
            |figure: &&Figure| self.only.is_empty() || self.only.iter().any(|only| only.name == figure.name);
        FIGURES.iter().filter(wanted)
    }
}

fn figure(name: &str) -> Result<&'static Figure, Failure> {
    Figure::named(name).ok_or_else(|| {
        let names: Vec<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        Failure::Usage(format!("there is no figure `{name}`; there are {}", names.join(", ")))
    })
}

fn peer(name: &str) -> Result<Peer, Failure> {
    let found = Peer::OPTIONAL.into_iter().find(|peer| peer.to_string() == name);
    found.ok_or_else(|| Failure::Usage(format!("`{name}` cannot be left out; nginx and distribution can")))
}

fn count(text: &str) -> Result<usize, Failure> {
    /// Nobody waits for more.
    const MAX: usize = 100;
    match text.parse() {
        Ok(count) if (1..=MAX).contains(&count) => Ok(count),
        _ => Err(Failure::Usage(format!("`{text}` is not a number from 1 to {MAX}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, Failure> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Arguments::parse(Path::new("/t/release/torno-bench"), words)
    }

    #[test]
    fn what_is_beside_the_program_is_the_default() {
        let arguments = parse(&[]).expect("arguments");
        assert_eq!(arguments.programs.torno, Path::new("/t/release/torno"));
        assert_eq!(arguments.output, Path::new("/t/bench.json"));
        assert_eq!(arguments.figures().count(), FIGURES.len());
        assert_eq!((arguments.scale.rounds, arguments.strict), (3, false));
    }

    #[test]
    fn rounds_hold_in_whatever_order_they_are_given() {
        for words in [["--rounds", "2", "--short"], ["--short", "--rounds", "2"]] {
            let arguments = parse(&words).expect("arguments");
            assert_eq!((arguments.scale.rounds, arguments.scale.name), (2, "short"));
        }
        let only = parse(&["--only", "memory", "--only", "manifest"]).expect("arguments");
        let names: Vec<&str> = only.figures().map(|figure| figure.name).collect();
        assert_eq!(names, ["manifest", "memory"]);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in
            [&["--only", "pull"][..], &["--only"], &["--rounds", "0"], &["--rounds", "101"], &["pull-1gib"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&["--rounds", "100"]).is_ok());
    }
}
