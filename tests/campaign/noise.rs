//! Numbers and bytes that a seed decides.

/// What comes next of a seed. Not for secrets.
#[derive(Clone, Debug)]
pub(crate) struct Noise(u64);

impl Noise {
    /// Of two seeds neither of which is enough: the campaign's, and whose noise it is.
    pub(crate) fn of(seed: u64, whose: u64) -> Self {
        let mut noise = Self(seed);
        Self(noise.next() ^ whose.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Whether something happens that happens once in so many times.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of several, unless there is none.
    pub(crate) fn pick<T>(&mut self, among: impl IntoIterator<Item = T>) -> Option<T> {
        let mut all: Vec<T> = among.into_iter().collect();
        if all.is_empty() {
            return None;
        }
        let at = usize::try_from(self.below(all.len() as u64)).unwrap_or(0);
        Some(all.swap_remove(at))
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    }
}
