//! Every attack, the promise it tests and the test, as the table that `docs/SECURITY.md` shows.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use torno_inside::ATTACKS;

/// What stands around the table in the page.
const BEGIN: &str = "<!-- attacks: written by the test of tests/hostile/table.rs -->\n";
const END: &str = "<!-- end of attacks -->\n";

/// Set to write the page instead of comparing with it.
const WRITE: &str = "TORNO_WRITE_DOCS";

/// Where the attacks of the probe are tried.
const PROBE: &str = "tests/hostile/probe.rs";

/// An attack that is no program of the probe's.
struct Attack {
    name: &'static str,
    promise: &'static str,
    /// The file and the function of its test.
    file: &'static str,
    test: &'static str,
}

const OTHERS: &[Attack] = &[
    Attack {
        name: "a run beside another one",
        promise: "Two runs at once see nothing of each other: no process, socket, port, shared memory, file or volume.",
        file: "tests/hostile/apart.rs",
        test: "two_runs_side_by_side_do_not_see_each_other",
    },
    Attack {
        name: "the host's kernel, from a project with `runtime = \"runsc\"`",
        promise: "A run meets a kernel of its own, and the limits hold that too.",
        file: "tests/hostile/gvisor.rs",
        test: "a_run_has_a_kernel_of_its_own_and_every_promise_is_kept",
    },
    Attack {
        name: "a runtime that is only called gVisor",
        promise: "No run is started by it: they wait in the queue, and say so.",
        file: "tests/hostile/gvisor.rs",
        test: "what_is_only_called_gvisor_runs_nothing",
    },
    Attack {
        name: "a fork bomb",
        promise: "A run's processes end at its limit, and the run by name.",
        file: "tests/limits.rs",
        test: "a_fork_bomb_stops_at_the_process_limit",
    },
    Attack {
        name: "a memory bomb",
        promise: "A run that takes more memory than its limit is ended, and says so.",
        file: "tests/limits.rs",
        test: "memory",
    },
    Attack {
        name: "bytes without end in `/output`",
        promise: "A run whose output outgrows its limit is ended while it writes.",
        file: "tests/limits.rs",
        test: "output_that_grows_is_stopped_before_the_time_is_up",
    },
    Attack {
        name: "files without number in `/output`",
        promise: "Past the limit of files nothing comes out.",
        file: "tests/limits.rs",
        test: "files_in_output",
    },
    Attack {
        name: "folders too deep to be measured",
        promise: "An output whose paths no engine can read is ended as one that is nested too deeply.",
        file: "tests/limits.rs",
        test: "output_that_cannot_be_measured_is_stopped",
    },
    Attack {
        name: "a sparse file of a terabyte; sockets, attributes, long, odd and case-clashing names",
        promise: "Only plain files and folders come out, with names and bytes alone; a hole counts as what it seems.",
        file: "tests/hostile/output.rs",
        test: "sockets_attributes_holes_and_odd_names_come_out_plain_or_not_at_all",
    },
    Attack {
        name: "links, pipes, setuid files, whiteouts, names that are no text",
        promise: "They stay out and are listed.",
        file: "tests/hardening.rs",
        test: "only_plain_files_come_out",
    },
    Attack {
        name: "`..`, absolute and duplicate names in the engine's archive",
        promise: "They stay out, whatever wrote the archive.",
        file: "crates/executor/src/collect/tests.rs",
        test: "names_that_lead_elsewhere_stay_out",
    },
    Attack {
        name: "devices, sparse files and whatever else is no plain file in the engine's archive",
        promise: "They stay out and are listed.",
        file: "crates/executor/src/collect/tests.rs",
        test: "what_is_no_file_stays_out",
    },
    Attack {
        name: "processes that ignore signals, fork twice, leave zombies and swap folders for links",
        promise: "Nothing of a run lives after it, and what it does at its end leads no reader elsewhere.",
        file: "tests/hostile/output.rs",
        test: "nothing_of_a_run_lives_after_it",
    },
    Attack {
        name: "SIGTERM ignored until the time is up",
        promise: "A run ends at its limit of time.",
        file: "tests/limits.rs",
        test: "time",
    },
    Attack {
        name: "a log without end; exit statuses, times and file attributes as messages",
        promise: "Of a log the end is kept, an exit status is one of 256, times are told to the second, and of files names \
            and bytes alone.",
        file: "tests/hostile/output.rs",
        test: "logs_without_end_and_exit_statuses_are_bounded",
    },
    Attack {
        name: "layers with absolute paths, `..`, links and whiteouts that climb",
        promise: "Nothing of a layer is written, read or removed outside its image.",
        file: "tests/hostile/image.rs",
        test: "layers_cannot_write_outside_the_image",
    },
    Attack {
        name: "layers that lie about their digest, are no archive, or end early",
        promise: "Their run ends, and the next one is well.",
        file: "tests/hostile/image.rs",
        test: "layers_that_are_not_what_they_are_said_to_be_end_their_run",
    },
    Attack {
        name: "500 layers, a history of 20,000 lines, a configuration of 16 MiB, 100,000 variables",
        promise: "What an engine cannot take, or takes minutes over, is refused at the push.",
        file: "tests/hostile/image.rs",
        test: "many_layers_a_long_history_and_a_large_configuration_end_in_words",
    },
    Attack {
        name: "a compressed bomb as a layer, with gzip and with Zstandard",
        promise: "Torno does not unpack it; the engine does.",
        file: "tests/hostile/image.rs",
        test: "a_compressed_bomb_costs_torno_no_memory",
    },
    Attack {
        name: "bytes that are pushed under another digest",
        promise: "They are not stored.",
        file: "tests/uploads.rs",
        test: "bytes_with_another_digest_end_the_session",
    },
    Attack {
        name: "links at the working directory to what the runtime has open (CVE-2024-21626), to `/sys` and to the host; at \
            volumes, `/output`, `/input`, `/tmp`, `/etc` and `/dev`",
        promise: "Neither the engine nor a run is led out of its image, and nothing is taken for output that is not.",
        file: "tests/hostile/link.rs",
        test: "links_lead_neither_the_engine_nor_the_run_out_of_the_image",
    },
    Attack {
        name: "parameters with commands, line breaks, NULs, quotes, 64 KiB, and names of other variables",
        promise: "They are refused at the push in words, or arrive byte for byte and do nothing.",
        file: "tests/hostile/parameters.rs",
        test: "parameters_are_refused_in_words_or_arrive_byte_for_byte_and_do_nothing",
    },
    Attack {
        name: "wishes behind capitals",
        promise: "An image is read as its engine reads it, or refused.",
        file: "tests/attacks.rs",
        test: "an_image_cannot_hide_its_wishes_behind_capitals",
    },
    Attack {
        name: "layers that name other servers",
        promise: "The engine fetches an image from Torno alone.",
        file: "tests/attacks.rs",
        test: "an_image_cannot_send_the_engine_elsewhere",
    },
    Attack {
        name: "an engine that lets every system call through",
        promise: "The filter of system calls is Torno's own.",
        file: "tests/engine.rs",
        test: "an_engine_that_allows_every_system_call_still_holds_runs_to_the_profile",
    },
    Attack {
        name: "a runtime that takes the filter away",
        promise: "No run is started on such a host.",
        file: "tests/hostile/doctor.rs",
        test: "a_host_that_breaks_a_promise_starts_no_run_until_that_is_accepted",
    },
    Attack {
        name: "an image that wants all GPUs, or looks as if it were from before images had to say so",
        promise: "A run gets the GPUs of its project and none of another run's; without any it gets none.",
        file: "tests/gpus.rs",
        test: "each_run_has_gpus_of_its_own_and_only_who_needs_some_waits_for_them",
    },
];

fn table() -> String {
    let mut text = String::from("| attack | promise | test |\n|---|---|---|\n");
    for attack in ATTACKS {
        let weight = if attack.mandatory { "" } else { " (advised)" };
        let _ = writeln!(text, "| `{}`{weight} | {} | `{PROBE}` |", attack.name, attack.promise);
    }
    for Attack { name, promise, file, test } in OTHERS {
        let _ = writeln!(text, "| {name} | {promise} | `{file}`: `{test}` |");
    }
    text
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_table_in_the_page_is_what_is_tried() {
    let page = root().join("docs/SECURITY.md");
    let text = fs::read_to_string(&page).expect("the page");
    let (before, rest) = text.split_once(BEGIN).expect("where the table begins");
    let (shown, after) = rest.split_once(END).expect("where the table ends");
    let table = table();
    if std::env::var_os(WRITE).is_some() {
        fs::write(&page, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
    } else {
        assert_eq!(
            shown, table,
            "if this is meant: {WRITE}=1 cargo test -p torno-tests --test hostile the_table"
        );
    }
}

#[test]
fn every_attack_of_the_table_has_its_test() {
    let mut told = BTreeSet::new();
    for Attack { name, promise, file, test } in OTHERS {
        let source = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let written = source.split("#[test]\nfn ").skip(1).any(|rest| rest.starts_with(&format!("{test}()")));
        assert!(written, "{name}: there is no test `{test}` in {file}");
        assert!(promise.ends_with('.') && told.insert(name), "{name}");
    }
}
