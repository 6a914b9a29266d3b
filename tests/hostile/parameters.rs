//! Parameters that would be commands, lines or other variables, if anything took them for such.

use std::{collections::BTreeMap, fs};

use serde_json::json;
use torno_tests::{Docker, Image, busybox};

use crate::{honest, image_of, program, site};

/// The longest value that is handed on.
const LONGEST: usize = 4096;

#[test]
fn parameters_are_refused_in_words_or_arrive_byte_for_byte_and_do_nothing() {
    let site = site();
    let ada = Docker::login(&site, "ada");
    let image = |labels: &BTreeMap<String, String>| {
        let busybox = program("busybox", &fs::read(busybox()).expect("busybox"));
        let script = "/busybox cat /proc/self/environ > /output/environ";
        image_of(
            &[busybox],
            &json!({"Cmd": ["/busybox", "sh", "-c", script], "Env": ["PATH=/own"], "Labels": labels}),
        )
    };
    let push = |image: &Image, tag: &str| image.push(&site.http("ada"), "run/p/parameters", tag);

    let long = "x".repeat(LONGEST);
    let handed_on = [
        ("substitution", "$(touch /output/made) `touch /output/made` ${IFS}$PATH <(id) $((1+1))"),
        ("words", "; touch /output/made & | || && > /output/made < /input/secret # !! ~ * ? [a] {a,b}"),
        ("quotes", r#"'; touch /output/made; '"; touch /output/made; "\' \" \\"#),
        ("escaped", r"a\nLD_PRELOAD=/evil.so\0TORNO_RUN=99\x0aPATH=/evil\u000a%0a$'\n'"),
        ("assignment", "=x LD_PRELOAD=/evil.so PATH=/evil"),
        (
            "template",
            "{{.}} {{ range . }} %s %n {0} ${jndi:x} <script>alert(1)</script> -- --privileged -v /:/host",
        ),
        ("spaces", "  leading, trailing  "),
        ("letters", "é ß 漢字 🜁 \u{301}"),
        ("empty", ""),
        ("long", &long),
        // Names that would be others' without what stands before them.
        ("ld_preload", "/evil.so"),
        ("path", "/evil"),
        ("run", "99"),
        ("torno_run", "99"),
        ("input", "/output"),
    ];
    let labels = handed_on.map(|(name, value)| (format!("org.torno.param.{name}"), value.to_owned()));
    let mut labels = BTreeMap::from(labels);
    // What only looks like a parameter is a label like any other.
    for (label, value) in
        [("org.torno.run", "99"), ("org.torno.parameters.x", "\n"), ("ORG.TORNO.PARAM.x", "\n")]
    {
        labels.insert(label.into(), value.into());
    }
    push(&image(&labels), "tricks").expect(201);
    assert_eq!(site.wait_for_run(1), "succeeded", "{}", site.torno_ok(&["runs", "log", "1"]));
    let result = ada.pull_result("p/parameters:tricks");
    let folder = tempfile::tempdir().expect("a folder");
    ada.files(&result, folder.path());
    let output: Vec<_> = fs::read_dir(folder.path().join("output"))
        .expect("output")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(output, ["environ"], "no value was a command to anybody");
    let environment = fs::read(folder.path().join("output/environ")).expect("the environment");
    let variables: BTreeMap<&[u8], &[u8]> = environment
        .split(|byte| *byte == 0)
        .filter_map(|variable| {
            let end = variable.iter().position(|byte| *byte == b'=')?;
            Some((&variable[..end], &variable[end + 1..]))
        })
        .collect();
    for (name, value) in handed_on {
        let variable = format!("TORNO_PARAM_{}", name.to_uppercase());
        let found = variables.get(variable.as_bytes()).map(|value| String::from_utf8_lossy(value));
        assert_eq!(found.as_deref(), Some(value), "{variable}");
    }
    let is =
        |name: &str| variables.get(name.as_bytes()).map(|value| String::from_utf8_lossy(value).into_owned());
    assert_eq!(is("PATH").as_deref(), Some("/own"));
    assert_eq!((is("TORNO_RUN").as_deref(), is("TORNO_INPUT").as_deref()), (Some("1"), Some("/input")));
    assert_eq!(is("LD_PRELOAD"), None);
    let parameters = variables.keys().filter(|name| name.starts_with(b"TORNO_PARAM_")).count();
    assert_eq!(parameters, handed_on.len(), "none more");

    let value = "cannot be handed on; use at most 4096 bytes without line breaks or other control characters";
    let name = "has no name that can be a variable's; use at most 64 lower-case letters, digits and `_`";
    let past = "x".repeat(LONGEST + 1);
    let huge = "x".repeat(64 << 10);
    for (number, (label, text, words)) in [
        ("a", "x\nLD_PRELOAD=/evil.so", value),
        ("a", "x\r", value),
        ("a", "x\0TORNO_RUN=99", value),
        ("a", "\u{1b}]0;x\u{7}", value),
        ("a", "\u{202e}x", value),
        ("a", "\u{85}x", value),
        ("a", &past, value),
        ("a", &huge, value),
        ("LD_PRELOAD", "/evil.so", name),
        ("a=b", "x", name),
        ("a\nLD_PRELOAD", "/evil.so", name),
        ("a\0", "x", name),
        ("../a", "x", name),
        ("$(id)", "x", name),
        ("", "x", name),
    ]
    .into_iter()
    .enumerate()
    {
        let labels = BTreeMap::from([(format!("org.torno.param.{label}"), text.to_owned())]);
        let message = push(&image(&labels), &format!("no{number}")).expect_error(400, "MANIFEST_INVALID");
        assert!(message.contains(words), "{label:?}: {message}");
        assert!(!message.contains(char::is_control) && message.len() < 400, "{label:?}: {message:?}");
    }
    assert_eq!(site.runs(), 1, "what was refused does not run");
    honest(&site, &ada, "honest");
}
