// SPDX-License-Identifier: GPL-2.0-only
//! Numbers that follow from a seed (SplitMix64), the same on every machine.

use std::ops::RangeInclusive;

#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the range, each as likely.
    pub fn within<T: TryFrom<u64>>(&mut self, range: RangeInclusive<u64>) -> T {
        let n = range.start() + self.next() % (range.end() - range.start() + 1);
        T::try_from(n).unwrap_or_else(|_| panic!("{n} does not fit"))
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.next() % 100 < chance
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(n).unwrap()).unwrap()
    }

    pub fn shuffle<T>(&mut self, what: &mut [T]) {
        for n in (1..what.len()).rev() {
            what.swap(n, self.below(n + 1));
        }
    }
}
