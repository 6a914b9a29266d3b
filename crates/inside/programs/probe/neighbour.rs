//! What a hostile run does beside attacks: takes all that another could see of it, and leaves what nobody wants.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::symlink,
            net::{SocketAddr, UnixListener},
        },
    },
    process::ExitCode,
    thread,
};

use crate::system::{self, Word, call};

/// Does one of them; what could not be done is a defect of the test.
pub(crate) fn done(what: fn() -> io::Result<()>) -> ExitCode {
    match what() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Has a socket of each kind, shared memory and files, says so, and stays.
pub(crate) fn occupy() -> io::Result<()> {
    let abstract_name = SocketAddr::from_abstract_name("torno-neighbour")?;
    let _abstract = UnixListener::bind_addr(&abstract_name)?;
    let _tcp = TcpListener::bind("0.0.0.0:4711")?;
    let _udp = UdpSocket::bind("0.0.0.0:4711")?;
    // `IPC_CREAT | 0666`
    call(system::SHMGET, [Word::Number(0x746f_726e), Word::Number(4096), Word::Number(0o1666)])?;
    for folder in ["/tmp", "/dev/shm", "/output"] {
        fs::write(format!("{folder}/neighbour"), "neighbour\n")?;
    }
    println!("occupied");
    loop {
        thread::park();
    }
}

/// Leaves in `/output` whatever a file system takes.
pub(crate) fn litter() -> io::Result<()> {
    std::env::set_current_dir("/output")?;
    fs::write("plain", "plain\n")?;
    let _socket = UnixListener::bind("socket")?;
    fs::write("Case", "upper\n")?;
    fs::write("case", "lower\n")?;
    fs::write("n".repeat(255), "long\n")?;
    fs::write("con.txt", "reserved elsewhere\n")?;
    fs::write("back\\slash", "one name\n")?;
    fs::write("...", "dots\n")?;
    fs::write(" ", "space\n")?;
    fs::write("\u{202e}txt.exe", "turned around\n")?;
    let mut deep = String::from("d");
    for _ in 0..20 {
        fs::create_dir(&deep)?;
        deep.push_str("/d");
    }
    symlink("deep/../../../..", "up")?;
    let mut attributed = File::create("attributed")?;
    writeln!(attributed, "attributed")?;
    let mut value = *b"forged";
    let value_length = value.len() as u64;
    let words = [
        Word::file(&attributed),
        Word::Text(c"user.torno"),
        Word::Bytes(&mut value),
        Word::Number(value_length),
        Word::Number(0),
    ];
    // Not every file system keeps them.
    let _ = call(system::FSETXATTR, words);
    Ok(())
}

/// A file of a terabyte that takes no room.
pub(crate) fn hole() -> io::Result<()> {
    File::create("/output/hole")?.set_len(1 << 40)
}
