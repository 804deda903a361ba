//! Which languages own an array on a device.

/// How often each language owns a buffer. They are few: a list is quicker than a map.
#[derive(Default)]
pub struct Owners(Vec<(String, usize)>);

impl Owners {
    pub fn total(&self) -> usize {
        self.0.iter().map(|it| it.1).sum()
    }

    pub fn of(&mut self, language: &str) -> Option<&mut usize> {
        self.0.iter_mut().find(|it| it.0 == language).map(|it| &mut it.1)
    }

    pub fn add(&mut self, language: &str) {
        match self.of(language) {
            Some(count) => *count += 1,
            None => self.0.push((language.into(), 1)),
        }
    }

    /// Those that own it now.
    pub fn iter(&self) -> impl Iterator<Item = (&String, usize)> {
        self.0.iter().filter(|it| it.1 > 0).map(|it| (&it.0, it.1))
    }
}
