//! A set of ports that is quick to fill.

use super::Port;

/// A set of ports: one bit for each number.
pub(super) struct PortSet {
    words: Box<[u64; 1024]>,
}

impl PortSet {
    /// Adds a port; false if it was in already.
    pub(super) fn insert(&mut self, port: Port) -> bool {
        let (word, bit) = place(port);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        is_new
    }

    pub(super) fn contains(&self, port: Port) -> bool {
        let (word, bit) = place(port);
        self.words[word] & bit != 0
    }
}

impl FromIterator<Port> for PortSet {
    fn from_iter<I: IntoIterator<Item = Port>>(ports: I) -> Self {
        let mut set = Self { words: Box::new([0; 1024]) };
        for port in ports {
            set.insert(port);
        }
        set
    }
}

fn place(port: Port) -> (usize, u64) {
    let number = port.number();
    (usize::from(number / 64), 1 << (number % 64))
}
