//! What is pushed and pulled: files of noise.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::failure::Failure;

/// How many bytes at the front of a payload make it differ from others made of the same file.
const FRONT: usize = 4096;
/// Noise is made in pieces of so many bytes.
const BLOCK: usize = 1024 * 1024;

/// Bytes whose digest is known: a front of its own, and behind it what stands in the file from there on.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    pub(crate) path: PathBuf,
    pub(crate) front: Vec<u8>,
    /// In bytes, all of it.
    pub(crate) size: u64,
    /// `sha256:<hex>`.
    pub(crate) digest: String,
}

impl Payload {
    /// Writes a file of `size` bytes, at least 4 KiB, that nothing compresses and no other seed gives.
    pub(crate) fn write(path: &Path, size: u64, seed: u64) -> Result<Self, Failure> {
        let failure = || Failure::io(format!("the payload {} could not be written", path.display()));
        let mut file = BufWriter::new(File::create(path).map_err(failure())?);
        let mut hasher = Sha256::new();
        let mut noise = Noise(seed);
        let mut front = Vec::new();
        let mut block = Vec::with_capacity(BLOCK);
        let mut left = size;
        while left > 0 {
            block.clear();
            block.resize(usize::try_from(left).unwrap_or(BLOCK).min(BLOCK), 0);
            noise.fill(&mut block);
            if front.is_empty() {
                front = block.get(..FRONT).unwrap_or(&block).to_vec();
            }
            hasher.update(&block);
            file.write_all(&block).map_err(failure())?;
            left -= block.len() as u64;
        }
        file.flush().map_err(failure())?;
        Ok(Self { path: path.to_owned(), front, size, digest: name(hasher) })
    }

    /// A file that is there.
    pub(crate) fn of(path: &Path) -> Result<Self, Failure> {
        let failure = || Failure::io(format!("the payload {} could not be read", path.display()));
        let mut file = File::open(path).map_err(failure())?;
        let mut hasher = Sha256::new();
        let size = hash(&mut file, &mut hasher).map_err(failure())?;
        Ok(Self { path: path.to_owned(), front: Vec::new(), size, digest: name(hasher) })
    }

    /// One of the same size with another front, and so with another digest.
    pub(crate) fn variant(&self, seed: u64) -> Result<Self, Failure> {
        let failure = || Failure::io(format!("the payload {} could not be read", self.path.display()));
        let mut file = File::open(&self.path).map_err(failure())?;
        let mut front = vec![0; self.front.len()];
        Noise(!seed).fill(&mut front);
        let mut hasher = Sha256::new_with_prefix(&front);
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(front.len() as u64)).map_err(failure())?;
        hash(&mut file, &mut hasher).map_err(failure())?;
        Ok(Self { path: self.path.clone(), front, size: self.size, digest: name(hasher) })
    }

    pub(crate) fn open(&self) -> Result<File, Failure> {
        File::open(&self.path).map_err(Failure::io(format!("{} could not be opened", self.path.display())))
    }
}

/// Hashes what is left of a file; how many bytes that was.
fn hash(file: &mut File, hasher: &mut Sha256) -> std::io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let mut bytes = 0;
    loop {
        match std::io::Read::read(file, &mut block)? {
            0 => return Ok(bytes),
            count => {
                hasher.update(block.get(..count).unwrap_or_default());
                bytes += count as u64;
            }
        }
    }
}

/// The digest of some bytes: `sha256:<hex>`.
pub(crate) fn digest(bytes: &[u8]) -> String {
    name(Sha256::new_with_prefix(bytes))
}

/// A digest under way, as its name.
pub(super) fn name(hasher: Sha256) -> String {
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

/// The generator `SplitMix64` (Steele, Lea, Flood 2014): quick, and good enough that nothing compresses it.
#[derive(Debug)]
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut word = self.0;
            word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            word ^= word >> 31;
            piece.copy_from_slice(word.to_le_bytes().get(..piece.len()).unwrap_or_default());
        }
    }
}
