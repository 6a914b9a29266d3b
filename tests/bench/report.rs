//! What is said: lines as the figures come, goals at the end, and the same as JSON.

use std::{fs, path::Path, thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    arguments::Arguments,
    failure::Failure,
    figure::{Figure, Measured},
};

/// What was found so far.
#[derive(Debug)]
pub(crate) struct Report {
    scale: &'static str,
    rounds: usize,
    figures: Vec<Value>,
    missed: Vec<String>,
    failed: Vec<Value>,
}

impl Report {
    pub(crate) fn new(arguments: &Arguments) -> Self {
        let Arguments { scale, .. } = arguments;
        if scale.name == "short" {
            println!("bench: the short form shows that the instrument works; its figures say nothing");
        }
        Self { scale: scale.name, rounds: scale.rounds, figures: vec![], missed: vec![], failed: vec![] }
    }

    /// Takes a figure, says it, and says on standard error how long it took.
    pub(crate) fn add(
        &mut self,
        figure: &'static Figure,
        measured: Result<Measured, Failure>,
        taken: Duration,
    ) {
        match measured {
            Ok(measured) => {
                for line in measured.lines() {
                    println!("{line}");
                }
                self.figures.extend(measured.json());
                self.missed.extend(measured.missed());
            }
            Err(failure) => {
                let reason = failure.chain();
                eprintln!("bench: {} could not be measured: {reason}", figure.name);
                self.failed.push(json!({"name": figure.name, "reason": reason}));
            }
        }
        eprintln!("bench: {} took {:.0} s", figure.name, taken.as_secs_f64());
    }

    /// Says what is missed, and writes the JSON.
    pub(crate) fn finish(&self, output: &Path) -> Result<(), Failure> {
        for missed in &self.missed {
            println!("missed {missed}");
        }
        if self.missed.is_empty() && self.is_complete() {
            println!("bench: every goal of these figures is reached");
        }
        let text = format!("{:#}\n", self.json());
        fs::write(output, text).map_err(Failure::io(format!("{} could not be written", output.display())))
    }

    /// Whether everything that was asked for was measured.
    pub(crate) fn is_complete(&self) -> bool {
        self.failed.is_empty()
    }

    pub(crate) fn misses_a_goal(&self) -> bool {
        !self.missed.is_empty()
    }

    fn json(&self) -> Value {
        json!({
            "scale": self.scale,
            "rounds": self.rounds,
            "processors": thread::available_parallelism().map_or(0, usize::from),
            "figures": self.figures,
            "missed": self.missed,
            "failed": self.failed,
        })
    }
}
