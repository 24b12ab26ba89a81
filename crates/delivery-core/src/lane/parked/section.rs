//! The sections of a lane's keys, each small enough to be listed at once. Pure.

use crate::event::Key;

/// There are so many sections to a digit.
const OF_A_DIGIT: u64 = 16;
/// Digits of a section, at most: with more there would be too many to ask for one after the other.
const MAX_DIGITS: u8 = 2;

/// The keys of a lane that begin with the same hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Section {
    digits: u8,
    prefix: u8,
}

impl Section {
    /// All keys.
    pub const ALL: Self = Self { digits: 0, prefix: 0 };

    /// The first of the sections that have no more than half of `max` each, if there are so many keys, or of the
    /// smallest ones.
    pub fn first_of(keys: u64, max: usize) -> Self {
        let half = u64::try_from(max / 2).unwrap_or(u64::MAX);
        let digits = if keys / OF_A_DIGIT <= half { 1 } else { MAX_DIGITS };
        Self { digits, prefix: 0 }
    }

    /// The next one of the same size. `None`: it is the last one.
    pub fn next(self) -> Option<Self> {
        let last = match self.digits {
            0 => 0,
            1 => 0xf,
            _ => 0xff,
        };
        (self.prefix < last).then(|| Self { prefix: self.prefix + 1, ..self })
    }

    /// Whether the key is in it.
    pub fn has(self, key: Key) -> bool {
        match self.digits {
            0 => true,
            1 => key >> 60 == u64::from(self.prefix),
            _ => key >> 56 == u64::from(self.prefix),
        }
    }

    /// The digits with which its keys begin, two at most.
    pub fn digits(self) -> Vec<u8> {
        match self.digits {
            0 => Vec::new(),
            1 => vec![self.prefix],
            _ => vec![self.prefix >> 4, self.prefix & 0xf],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_is_in_one_section_of_each_size() {
        for (keys, sections) in [(0, 16), (32_768, 16), (32_784, 256), (u64::MAX, 256)] {
            let all: Vec<Section> =
                std::iter::successors(Some(Section::first_of(keys, 4096)), |section| section.next()).collect();
            assert_eq!(all.len(), sections, "{keys}");
            for key in [0, 1, 0x0fff_ffff_ffff_ffff, 0x1000_0000_0000_0000, 0xabcd_0000_0000_0000, u64::MAX] {
                let of: Vec<&Section> = all.iter().filter(|section| section.has(key)).collect();
                assert_eq!(of.len(), 1, "{key:x}");
                let hex = format!("{key:016x}");
                let digits = of[0].digits();
                assert!(digits.iter().zip(hex.chars()).all(|(digit, char)| format!("{digit:x}") == char.to_string()));
            }
        }
        assert!(Section::ALL.has(u64::MAX) && Section::ALL.next().is_none() && Section::ALL.digits().is_empty());
    }
}
