//! What `[tls]` and `listen.http` say. Pairs that are good, and those that are not, are in `tests/tls.rs`.

use torno_server::Challenge;

use super::*;

#[test]
fn an_open_address_without_tls_must_be_meant() {
    for open in ["0.0.0.0:5000", "192.0.2.1:5000", "[::]:5000"] {
        let text = format!("[listen]\naddress = \"{open}\"\nhostname = \"a.b\"\n");
        assert_error(&text, "listen.address", "tls.i_know_passwords_travel_in_clear = true");
        good(&format!("{text}[tls]\ni_know_passwords_travel_in_clear = true"));
    }
    for closed in ["127.0.0.1:0", "127.1.2.3:5000", "[::1]:5000", "[::ffff:127.0.0.1]:5000"] {
        good(&format!("[listen]\naddress = \"{closed}\""));
    }
    for mode in ["on", "", "Files"] {
        assert_error(&format!("[tls]\nmode = \"{mode}\""), "tls.mode", "reverse proxy");
    }
    // What follows from a mode that is none is not said.
    assert_error(
        "[listen]\naddress = \"0.0.0.0:1\"\nhostname = \"a.b\"\n[tls]\nmode = \"on\"",
        "tls.mode",
        "not a mode",
    );
}

#[test]
fn tls_needs_two_files_that_can_be_read() {
    let site = Site::new();
    let files = "[listen]\naddress = \"0.0.0.0:1\"\nhostname = \"a.b\"\n[tls]\nmode = \"files\"\n";
    let errors = site.errors(files, &Environment::default());
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("tls.certificate: say where"), "{errors:#?}");
    assert!(errors[1].starts_with("tls.key: say where"), "{errors:#?}");

    let named = format!("{files}certificate = \"certs/a.pem\"\nkey = \"retina\"\n[results]\nwait = \"1\"");
    let errors = site.errors(&named, &Environment::default());
    assert_eq!(errors.len(), 3, "{errors:#?}");
    let certificate = site.path("certs/a.pem");
    assert!(errors[0].starts_with(&format!("tls.certificate: {}: it cannot", certificate.display())));
    assert!(errors[1].starts_with("tls.key: ") && errors[1].contains("it cannot be read"), "{errors:#?}");

    // A megabyte is read, and not a byte more.
    for (size, words) in [(1 << 20, "there is no certificate"), ((1 << 20) + 1, "more than 1048576 bytes")] {
        fs::write(site.path("large"), "x".repeat(size)).expect("write");
        let text = format!("{files}certificate = \"large\"\nkey = \"large\"");
        let errors = site.errors(&text, &Environment::default());
        assert!(errors[0].contains(words), "{errors:#?}");
    }
}

#[test]
fn what_tls_does_not_use_is_pointed_at() {
    let config = good("[tls]\ncertificate = \"nowhere\"\nkey = \"nowhere\"");
    assert!(config.tls.is_none());
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(
        config.warnings[0].starts_with("tls.certificate: `tls.mode` is \"off\""),
        "{:?}",
        config.warnings
    );
}

#[test]
fn no_run_sees_the_key() {
    let text = "[tls]\nkey = \"retina/key.pem\"\n[datasets.a]\npath = \"retina\"";
    assert_error(text, "datasets.a.path", "TLS key");
}

/// What a configuration orders, with these lines in `[tls]`.
fn ordered(text: &str) -> (torno_server::AcmeSettings, Vec<String>) {
    let config = good(text);
    match config.tls.expect("TLS").source {
        Source::Acme(settings) => (settings, config.warnings),
        Source::Files(_) => panic!("files: {text}"),
    }
}

const OPEN: &str = "[listen]\naddress = \"0.0.0.0:443\"\nhostname = \"a.b\"\n";

#[test]
fn three_lines_order_from_lets_encrypt() {
    let (settings, warnings) = ordered(&format!("{OPEN}[tls]\nmode = \"acme\""));
    assert_eq!(settings.directory.to_string(), "https://acme-v02.api.letsencrypt.org/directory");
    assert_eq!(settings.names.iter().map(torno_server::DomainName::as_str).collect::<Vec<_>>(), ["a.b"]);
    assert_eq!((settings.challenge, settings.root, settings.contact), (Challenge::TlsAlpn, None, None));
    assert!(settings.folder.ends_with("certs") && settings.folder.is_absolute());
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn everything_about_an_order_can_be_said() {
    let text = "[listen]\naddress = \"0.0.0.0:443\"\nhttp = \"0.0.0.0:80\"\nhostname = \"a.b:443\"\n[tls]\n\
        mode = \"acme\"\nhostnames = [\"a.b\", \"c.d\"]\ncontact = \"mailto:x@a.b\"\n\
        directory = \"https://ca.example/dir\"\nchallenge = \"http-01\"\nfolder = \"kept\"";
    let (settings, warnings) = ordered(text);
    assert_eq!(settings.names.len(), 2);
    assert_eq!(settings.challenge, Challenge::Http);
    assert!(settings.folder.ends_with("kept"));
    assert!(warnings.is_empty(), "{warnings:?}");
    let text = text.replace("hostnames = [\"a.b\", \"c.d\"]\n", "");
    assert_eq!(ordered(&text).0.names[0].as_str(), "a.b", "without the port");
}

#[test]
fn what_cannot_be_ordered_is_an_error() {
    let refused = |line: &str, place: &str, words: &str| {
        assert_error(&format!("{OPEN}[tls]\nmode = \"acme\"\n{line}"), place, words);
    };
    refused("hostnames = []", "tls.hostnames", "1 to 100 names");
    refused("hostnames = \"a.b\"", "tls.hostnames", "expected a list of names");
    refused("hostnames = [\"a.b\", \"*.c\"]", "tls.hostnames[1]", "only DNS could prove");
    refused("hostnames = [\"192.0.2.1\"]", "tls.hostnames[0]", "is an address");
    refused("contact = \"x@a.b\"", "tls.contact", "mailto:");
    refused("directory = \"http://a/dir\"", "tls.directory", "https://ca.example.org");
    refused("directory = \"https://u:secret@a/dir\"", "tls.directory", "would stand in the log");
    refused("root = \"nowhere.pem\"", "tls.root", "it cannot be read");
    refused("challenge = \"dns-01\"", "tls.challenge", "cannot write to DNS");
    refused("challenge = \"http-01\"", "tls.challenge", "listen.http");
    let names: Vec<String> = (0..101).map(|number| format!("\"n{number}.b\"")).collect();
    refused(&format!("hostnames = [{}]", names.join(", ")), "tls.hostnames", "these are 101");
    let listen =
        |hostname: &str| format!("[listen]\naddress = \"0.0.0.0:443\"\n{hostname}\n[tls]\nmode = \"acme\"");
    assert_error(&listen(""), "tls.hostnames", "listen.hostname = ");
    assert_error(&listen("hostname = \"192.0.2.1:443\""), "tls.hostnames", "is an address");
}

#[test]
fn what_an_authority_will_not_find_is_pointed_at() {
    let warnings = |text: &str| ordered(text).1;
    let inner = warnings(
        "[listen]\naddress = \"127.0.0.1:5000\"\nhostname = \"registry.local\"\n[tls]\nmode = \"acme\"",
    );
    assert_eq!(inner.len(), 3, "{inner:?}");
    assert!(inner[0].starts_with("listen.address: Let's Encrypt cannot reach 127.0.0.1:5000"), "{inner:?}");
    assert!(
        inner[1].starts_with("tls.hostnames: Let's Encrypt gives no certificate for registry.local"),
        "{inner:?}"
    );
    assert!(inner[2].starts_with("listen.address: ") && inner[2].contains("port 443"), "{inner:?}");
    let private = "[listen]\naddress = \"127.0.0.1:443\"\nhttp = \"127.0.0.1:8080\"\nhostname = \"a.local\"\n[tls]\n\
        mode = \"acme\"\ndirectory = \"https://ca.local/dir\"\nchallenge = \"http-01\"";
    let private = warnings(private);
    assert_eq!(private.len(), 1, "{private:?}");
    assert!(private[0].starts_with("listen.http: ") && private[0].contains("port 80"), "{private:?}");
}

#[test]
fn what_another_mode_would_use_is_pointed_at() {
    let acme =
        "contact = \"mailto:x@a.b\"\nfolder = \"kept\"\nclient_ca = \"nowhere\"\nclient_login = \"required\"";
    let off = good(&format!("[listen]\nhttp = \"127.0.0.1:80\"\n[tls]\n{acme}"));
    assert_eq!(off.warnings.len(), 5, "{:?}", off.warnings);
    assert_eq!(off.clear, None);
    let (_, warnings) = ordered(&format!("{OPEN}[tls]\nmode = \"acme\"\nkey = \"nowhere\""));
    assert!(warnings[0].starts_with("tls.key: `tls.mode` is \"acme\""), "{warnings:?}");
}

#[test]
fn clients_need_somebody_who_vouches_for_them() {
    let refused = |line: &str, place: &str, words: &str| {
        assert_error(&format!("{OPEN}[tls]\nmode = \"acme\"\n{line}"), place, words);
    };
    refused("client_login = \"required\"", "tls.client_ca", "say who signs");
    refused("client_crl = \"nowhere\"", "tls.client_ca", "say who signs");
    refused("client_ca = \"nowhere\"", "tls.client_ca", "it cannot be read");
    // Both mistakes are said.
    let text = format!("{OPEN}[tls]\nmode = \"acme\"\nclient_ca = \"nowhere\"\nclient_login = \"yes\"");
    let errors = Site::new().errors(&text, &Environment::default());
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("tls.client_login: ") && errors[0].contains("neither"), "{errors:#?}");
}

#[test]
fn no_run_sees_what_authorities_have_given() {
    let text =
        format!("{OPEN}[tls]\nmode = \"acme\"\nfolder = \"retina/kept\"\n[datasets.a]\npath = \"retina\"");
    assert_error(&text, "datasets.a.path", "folder of certificates");
}
