//! The files of a server after any number of its system calls: as the kernel has them when the process is killed there,
//! and as the disk has them at least when the power fails there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::trace::Call;

/// The folders and files below one folder, in memory.
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    root: PathBuf,
    files: Vec<File>,
    /// What stands where for every process.
    seen: BTreeMap<PathBuf, Entry>,
    /// What stands where on the disk, for all we know.
    durable: BTreeMap<PathBuf, Entry>,
}

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    /// Its number.
    File(usize),
}

/// A file, whatever its names.
#[derive(Clone, Debug, Default)]
struct File {
    seen: Vec<u8>,
    durable: Vec<u8>,
}

/// The paths below the root with what is there; `None` is a folder.
pub(crate) type Tree = BTreeMap<PathBuf, Option<Vec<u8>>>;

impl Replay {
    /// Begins with what is there, all of it durable.
    pub(crate) fn of(root: &Path) -> Self {
        let mut this = Self {
            root: root.to_owned(),
            files: Vec::new(),
            seen: BTreeMap::new(),
            durable: BTreeMap::new(),
        };
        for (path, content) in tree(root) {
            let entry = match content {
                None => Entry::Folder,
                Some(bytes) => this.file(File { durable: bytes.clone(), seen: bytes }),
            };
            this.seen.insert(path, entry);
        }
        this.durable = this.seen.clone();
        this
    }

    fn file(&mut self, file: File) -> Entry {
        self.files.push(file);
        Entry::File(self.files.len() - 1)
    }

    /// The path below the root.
    fn inside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().filter(|path| !is_passing(path)).map(Path::to_owned)
    }

    /// Does what a call did.
    pub(crate) fn apply(&mut self, call: &Call) {
        if !call.succeeded() {
            return;
        }
        match call.name.as_str() {
            "openat" => self.open(call),
            "write" | "pwrite64" => self.write(call),
            "rename" | "renameat" | "renameat2" => {
                let paths = call.paths();
                if let (Some(from), Some(to)) = (self.inside(&paths[0]), self.inside(&paths[1])) {
                    let entry = self.seen.remove(&from).expect("something to rename");
                    self.seen.insert(to, entry);
                }
            }
            "unlink" | "unlinkat" | "rmdir" => {
                if let Some(path) = self.inside(&call.paths()[0]) {
                    self.seen.remove(&path).expect("something to remove");
                }
            }
            "mkdir" | "mkdirat" => {
                if let Some(path) = self.inside(&call.paths()[0]) {
                    self.seen.insert(path, Entry::Folder);
                }
            }
            "ftruncate" => {
                if let Some(file) = self.descriptor(call) {
                    self.files[file].seen.resize(call.last_number(), 0);
                }
            }
            "fsync" | "fdatasync" => {
                let Some(path) = call.file().and_then(|path| self.inside(&path)) else { return };
                self.sync(&path);
            }
            "syncfs" | "sync" => {
                for file in &mut self.files {
                    file.durable.clone_from(&file.seen);
                }
                self.durable = self.seen.clone();
            }
            "fallocate" => {
                let path = call.file().expect("a file");
                assert!(path.file_name().is_some_and(|name| is_passing(Path::new(name))), "{call:?}");
            }
            // Answers, and what else goes to sockets.
            "writev" | "sendto" | "sendmsg" => {
                assert!(self.descriptor(call).is_none(), "a call that is not replayed: {call:?}");
            }
            other => {
                assert!(!call.arguments.contains(self.root.to_str().expect("UTF-8")), "{other}: {call:?}");
            }
        }
    }

    /// The file that the first argument of a call is.
    fn descriptor(&self, call: &Call) -> Option<usize> {
        match self.seen.get(&self.inside(&call.file()?)?)? {
            Entry::File(file) => Some(*file),
            Entry::Folder => None,
        }
    }

    fn open(&mut self, call: &Call) {
        let Some(path) = call.opened().and_then(|path| self.inside(&path)) else { return };
        match self.seen.get(&path) {
            Some(Entry::File(file)) if call.arguments.contains("O_TRUNC") => self.files[*file].seen.clear(),
            Some(_) => {}
            None => {
                assert!(call.arguments.contains("O_CREAT"), "{call:?}");
                let entry = self.file(File::default());
                self.seen.insert(path, entry);
            }
        }
    }

    fn write(&mut self, call: &Call) {
        let Some(number) = self.descriptor(call) else { return };
        let bytes = call.strings().remove(0);
        let taken = call.taken();
        let file = &mut self.files[number].seen;
        // What is written without a place is written to new files and logs, which grow.
        let at = if call.name == "pwrite64" { call.last_number() } else { file.len() };
        file.resize(file.len().max(at + taken), 0);
        file[at..at + taken].copy_from_slice(&bytes[..taken]);
    }

    /// A file's bytes, or which entries a folder has; neither says anything of the other.
    fn sync(&mut self, path: &Path) {
        if let Some(Entry::File(file)) = self.seen.get(path) {
            let file = &mut self.files[*file];
            file.durable.clone_from(&file.seen);
        } else {
            let is_in = |entry: &PathBuf| entry.parent() == Some(path);
            self.durable.retain(|entry, _| !is_in(entry));
            let now = self.seen.iter().filter(|(entry, _)| is_in(entry));
            self.durable.extend(now.map(|(entry, what)| (entry.clone(), *what)));
        }
    }

    /// What a killed process leaves.
    pub(crate) fn killed(&self) -> Tree {
        let content = |file: usize| self.files[file].seen.clone();
        self.seen.iter().map(|(path, entry)| (path.clone(), entry.content(content))).collect()
    }

    /// What a loss of power leaves if nothing reached the disk that nobody waited for.
    pub(crate) fn without_power(&self) -> Tree {
        let content = |file: usize| self.files[file].durable.clone();
        self.durable.iter().map(|(path, entry)| (path.clone(), entry.content(content))).collect()
    }
}

impl Entry {
    fn content(self, of: impl Fn(usize) -> Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Self::Folder => None,
            Self::File(number) => Some(of(number)),
        }
    }
}

/// The file that only takes room, of which nothing is ever read, and the sockets of the processes that run: each start
/// makes them anew.
fn is_passing(path: &Path) -> bool {
    path == Path::new("reserve") || path.starts_with("news")
}

/// What is below a folder, by paths relative to it, itself included; without what is passing.
pub(crate) fn tree(root: &Path) -> Tree {
    let mut tree = Tree::from([(PathBuf::new(), None)]);
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = folder.join(entry.file_name());
            if is_passing(&path) {
                continue;
            }
            if entry.file_type().expect("a type").is_dir() {
                folders.push(path.clone());
                tree.insert(path, None);
            } else {
                tree.insert(path, Some(fs::read(entry.path()).expect("a file")));
            }
        }
    }
    tree
}

/// Makes a folder what a tree says.
pub(crate) fn plant(tree: &Tree, root: &Path) {
    if root.exists() {
        fs::remove_dir_all(root).expect("an old tree");
    }
    // Folders come before what is in them.
    for (path, content) in tree {
        let path = root.join(path);
        match content {
            None => fs::create_dir(&path).expect("a folder"),
            Some(bytes) => {
                // What is durable may be in a folder of which that is not known.
                if path.parent().is_some_and(Path::exists) {
                    fs::write(&path, bytes).expect("a file");
                }
            }
        }
    }
}
