//! A directory: the server of `OpenLDAP`, from Debian's package `slapd`, with people in it.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{Pair, wait_until};

const SLAPD: &str = "/usr/sbin/slapd";
const BASE: &str = "dc=example,dc=org";
const ROOT: &str = "cn=root,dc=example,dc=org";
const ROOT_PASSWORD: &str = "pw-root";

/// A directory with a folder of its own, in which people have `pw-<name>` as their password. Dropped, it ends.
#[derive(Debug)]
pub struct Slapd {
    folder: TempDir,
    server: Option<Child>,
    clear: SocketAddr,
    encrypted: SocketAddr,
}

impl Slapd {
    /// Starts one with these people and these groups of them, and waits until it answers. With a pair it speaks TLS.
    pub fn start(people: &[&str], groups: &[(&str, &[&str])], tls: Option<&Pair>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [clear, encrypted] = free_ports();
        let mut slapd = Self { folder, server: None, clear, encrypted };
        fs::create_dir(slapd.folder.path().join("data")).expect("a folder");
        slapd.write("slapd.conf", &slapd.configuration(tls));
        slapd.write("password", "pw-torno\n");
        let mut entries = format!(
            "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n\
             dn: cn=torno,{BASE}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: torno\n\
             userPassword: pw-torno\n\n"
        );
        for unit in ["people", "groups"] {
            let _ = writeln!(entries, "dn: ou={unit},{BASE}\nobjectClass: organizationalUnit\nou: {unit}\n");
        }
        for name in people {
            entries += &person(name);
        }
        for (name, members) in groups {
            let _ =
                writeln!(entries, "dn: cn={name},ou=groups,{BASE}\nobjectClass: groupOfNames\ncn: {name}");
            for member in *members {
                let _ = writeln!(entries, "member: uid={member},ou=people,{BASE}");
            }
            entries.push('\n');
        }
        slapd.write("entries.ldif", &entries);
        let mut add = Command::new("/usr/sbin/slapadd");
        add.arg("-f").arg(slapd.path("slapd.conf")).arg("-l").arg(slapd.path("entries.ldif"));
        let added = add.output().expect("install slapd (scripts/setup does)");
        assert!(added.status.success(), "slapadd: {}", String::from_utf8_lossy(&added.stderr));
        slapd.resume();
        slapd
    }

    fn configuration(&self, tls: Option<&Pair>) -> String {
        let mut text = String::new();
        for schema in ["core", "cosine", "inetorgperson"] {
            let _ = writeln!(text, "include /etc/ldap/schema/{schema}.schema");
        }
        // A name with an empty password is welcome, as with careless directories.
        let _ = writeln!(text, "modulepath /usr/lib/ldap\nmoduleload back_mdb\nallow bind_anon_cred");
        if let Some(pair) = tls {
            let _ = writeln!(
                text,
                "TLSCertificateFile {}\nTLSCertificateKeyFile {}",
                pair.certificate.display(),
                pair.key.display()
            );
        }
        let _ = writeln!(
            text,
            "database mdb\nsuffix \"{BASE}\"\nrootdn \"{ROOT}\"\nrootpw {ROOT_PASSWORD}\ndirectory {}\n\
             access to attrs=userPassword by anonymous auth by * none\n\
             access to * by dn.exact=\"cn=torno,{BASE}\" read by * none",
            self.path("data").display()
        );
        text
    }

    /// What tells Torno to ask it, but for `starttls` and `ca`.
    pub fn table(&self) -> String {
        format!(
            "[auth.ldap]\nbind_dn = \"cn=torno,{BASE}\"\nbind_password_file = \"{}\"\nrecheck = \"1s\"\n\
             user_base = \"ou=people,{BASE}\"\ngroup_base = \"ou=groups,{BASE}\"\n",
            self.path("password").display()
        )
    }

    /// Its address, which speaks in clear or upgrades to TLS.
    pub fn url(&self) -> String {
        format!("ldap://{}", self.clear)
    }

    /// Its address that speaks TLS.
    pub fn tls_url(&self) -> String {
        format!("ldaps://{}", self.encrypted)
    }

    /// Starts it again with what it had.
    pub fn resume(&mut self) {
        let log = File::create(self.path("log")).expect("log");
        let mut command = Command::new(SLAPD);
        // It stays in the foreground when it is to say something, be it nothing.
        command.args(["-d", "0", "-h", &format!("{}/ {}/", self.url(), self.tls_url())]);
        command.arg("-f").arg(self.path("slapd.conf"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.server = Some(child.expect("install slapd (scripts/setup does)"));
        wait_until("the directory listens", || TcpStream::connect(self.clear).ok());
    }

    /// Ends it; what it has written stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.server.take() {
            // Its database survives that.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets it hang: connections stand, and no answer comes.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.server.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill");
        assert!(sent.success());
    }

    /// Adds somebody.
    pub fn add(&self, name: &str) {
        self.change("ldapadd", &person(name));
    }

    /// Removes somebody.
    pub fn remove(&self, name: &str) {
        self.change("ldapmodify", &format!("dn: uid={name},ou=people,{BASE}\nchangetype: delete\n"));
    }

    /// Takes somebody out of a group that others are left in.
    pub fn leave(&self, name: &str, group: &str) {
        let member = format!("uid={name},ou=people,{BASE}");
        let change = format!("changetype: modify\ndelete: member\nmember: {member}\n");
        self.change("ldapmodify", &format!("dn: cn={group},ou=groups,{BASE}\n{change}"));
    }

    /// Adds an entry among people that sends whoever looks for them elsewhere.
    pub fn refer(&self, url: &str) {
        let entry = format!(
            "dn: ou=elsewhere,ou=people,{BASE}\nobjectClass: referral\nobjectClass: extensibleObject\n\
             ou: elsewhere\nref: {url}/ou=people,{BASE}\n"
        );
        self.change("ldapadd", &entry);
    }

    fn change(&self, program: &str, ldif: &str) {
        let mut command = Command::new(program);
        command.args(["-x", "-H", &self.url(), "-D", ROOT, "-w", ROOT_PASSWORD]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("install ldap-utils (scripts/setup does)");
        child.stdin.take().expect("stdin").write_all(ldif.as_bytes()).expect("write");
        let output = child.wait_with_output().expect("an end");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut file = File::options()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path(name))
            .expect("a file");
        file.write_all(text.as_bytes()).expect("write");
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn person(name: &str) -> String {
    format!(
        "dn: uid={name},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\n\
         userPassword: pw-{name}\n\n"
    )
}

/// Ports that nobody has at the moment.
fn free_ports<const N: usize>() -> [SocketAddr; N] {
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("its address"))
}
