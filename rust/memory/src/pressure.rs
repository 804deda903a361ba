//! How short memory is, for this process: its control groups, the machine, and the time tasks lose waiting for memory (PSI).
//!
//! Every group from the process's own up to the root may have a limit, and the machine is the last. The one that is fullest
//! decides: it bites first. Groups of version 2 and 1 are read alike. What a group uses is its working set: its pages without
//! the file cache that the kernel drops as soon as somebody needs room.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Normal,
    /// Give back what is cheap to give back.
    High,
    /// Give back all that can be, before the kernel ends a process.
    Critical,
}

/// When a level begins, and when it ends: later than it began, so that it doesn't flicker.
#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    /// Used memory as a share of the limit.
    pub share: f64,
    pub share_left: f64,
    /// Percent of the last 10 s in which tasks waited for memory.
    pub stall: f64,
    pub stall_left: f64,
}

/// `stall` is PSI's `some`: at least one task waited.
pub const HIGH: Threshold = Threshold { share: 0.80, share_left: 0.75, stall: 10.0, stall_left: 5.0 };
/// `stall` is PSI's `full`: all tasks waited at the same time.
pub const CRITICAL: Threshold = Threshold { share: 0.95, share_left: 0.90, stall: 10.0, stall_left: 5.0 };

impl Threshold {
    fn is_reached(&self, is_there: bool, share: f64, stall: Option<f64>) -> bool {
        let (least_share, least_stall) =
            if is_there { (self.share_left, self.stall_left) } else { (self.share, self.stall) };
        share >= least_share || stall.is_some_and(|stall| stall > least_stall)
    }
}

/// The state of memory at one instant; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub level: Level,
    /// Of the group, or of the machine, that is fullest.
    pub used: u64,
    pub limit: u64,
    /// What this process can still take before the first of all the limits.
    pub available: u64,
    /// None where the kernel doesn't measure it.
    pub psi_some_avg10: Option<f64>,
    pub psi_full_avg10: Option<f64>,
    /// Whose `used` and `limit` these are: `cgroup v2`, `cgroup v1` or `machine`.
    pub source: &'static str,
}

/// Reads the pressure whenever it is asked, from files that it keeps open.
#[derive(Debug)]
pub struct Pressure {
    root: PathBuf,
    level: Level,
    sources: Option<Sources>,
}

impl Default for Pressure {
    fn default() -> Self {
        Self::new()
    }
}

impl Pressure {
    #[must_use]
    pub fn new() -> Self {
        Self::with_root(Path::new("/"))
    }

    /// With /proc and the control groups below another folder, as tests make them.
    #[must_use]
    pub fn with_root(root: &Path) -> Self {
        Self { root: root.into(), level: Level::Normal, sources: None }
    }

    /// The state now. Its level depends on the last sample's, as [`Threshold`] says.
    ///
    /// # Errors
    /// There is no readable /proc; the next call tries again.
    pub fn sample(&mut self) -> io::Result<Sample> {
        let known = self.sources.take().filter(Sources::are_current);
        let sources = known.map_or_else(|| Sources::find(&self.root), Ok)?;
        let mut sample = sources.read()?;
        self.sources = Some(sources);
        let share = sample.used as f64 / sample.limit.max(1) as f64;
        self.level = level_after(self.level, share, sample.psi_some_avg10, sample.psi_full_avg10);
        sample.level = self.level;
        Ok(sample)
    }
}

fn level_after(before: Level, share: f64, some: Option<f64>, full: Option<f64>) -> Level {
    if CRITICAL.is_reached(before == Level::Critical, share, full) {
        Level::Critical
    } else if HIGH.is_reached(before >= Level::High, share, some) {
        Level::High
    } else {
        Level::Normal
    }
}

/// What a version of control groups calls its files and fields.
#[derive(Debug)]
struct Names {
    source: &'static str,
    limit: &'static str,
    usage: &'static str,
    inactive_file: &'static str,
}

const V2: Names =
    Names { source: "cgroup v2", limit: "memory.max", usage: "memory.current", inactive_file: "inactive_file" };
const V1: Names = Names {
    source: "cgroup v1",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    inactive_file: "total_inactive_file",
};

/// A small file of /proc or of a group that is read again and again.
#[derive(Debug)]
struct Probe(File);

impl Probe {
    fn open(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// Parse the file's text as it is now. The files are ASCII and short; what we look for is in their first 8 KiB.
    fn read<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let mut buffer = [0; 8192];
        let length = self.0.read_at(&mut buffer, 0).ok()?;
        parse(str::from_utf8(&buffer[..length]).ok()?)
    }
}

/// One group with the files of its memory.
#[derive(Debug)]
struct Group {
    names: &'static Names,
    limit: Probe,
    usage: Probe,
    stat: Probe,
}

impl Group {
    fn open(folder: &Path, names: &'static Names) -> io::Result<Self> {
        let open = |name| Probe::open(&folder.join(name));
        Ok(Self { names, limit: open(names.limit)?, usage: open(names.usage)?, stat: open("memory.stat")? })
    }

    /// Nothing where the limit is the word "max", or a number (version 1 has no word) that the machine can't reach.
    fn read(&self, machine: &Sample) -> Option<Sample> {
        let limit = self.limit.read(bytes).filter(|limit| *limit < machine.limit)?;
        let cache = self.stat.read(|text| field(text, self.names.inactive_file))?;
        let used = self.usage.read(bytes)?.saturating_sub(cache);
        Some(Sample { used, limit, available: limit.saturating_sub(used), source: self.names.source, ..*machine })
    }
}

#[derive(Debug)]
struct Sources {
    membership: Probe,
    /// What `membership` said when the groups were looked up.
    groups_of: String,
    groups: Vec<Group>,
    machine: Probe,
    stalls: Option<Probe>,
}

impl Sources {
    fn find(root: &Path) -> io::Result<Self> {
        let proc = root.join("proc");
        let membership = Probe::open(&proc.join("self/cgroup"))?;
        let groups_of = membership.read(|text| Some(text.to_owned())).unwrap_or_default();
        let mounts = fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default();
        let unified = folders(root, &mounts, group(&groups_of, ""), |kind, _| kind == "cgroup2");
        let legacy = folders(root, &mounts, group(&groups_of, "memory"), |kind, options| {
            kind == "cgroup" && options.split(',').any(|option| option == "memory")
        });
        let groups = unified.iter().map(|folder| (folder, &V2)).chain(legacy.iter().map(|folder| (folder, &V1)));
        let mut pressure_files = unified.iter().map(|folder| folder.join("memory.pressure"));
        Ok(Self {
            groups: groups.filter_map(|(folder, names)| Group::open(folder, names).ok()).collect(),
            machine: Probe::open(&proc.join("meminfo"))?,
            // Of the innermost group that has one: that is where our own tasks wait.
            stalls: pressure_files
                .find_map(|path| Probe::open(&path).ok())
                .or_else(|| Probe::open(&proc.join("pressure/memory")).ok()),
            membership,
            groups_of,
        })
    }

    /// Is the process still in the groups whose files these are?
    fn are_current(&self) -> bool {
        self.membership.read(|text| Some(text == self.groups_of)) == Some(true)
    }

    fn read(&self) -> io::Result<Sample> {
        let mut machine = self
            .machine
            .read(machine)
            .ok_or_else(|| io::Error::other("/proc/meminfo doesn't say how much memory there is"))?;
        if let Some((some, full)) = self.stalls.as_ref().and_then(|file| file.read(|t| Some(stalls(t)))) {
            (machine.psi_some_avg10, machine.psi_full_avg10) = (some, full);
        }
        let mut fullest = machine;
        for group in self.groups.iter().filter_map(|group| group.read(&machine)) {
            let available = fullest.available.min(group.available);
            // Compares used / limit without rounding.
            if product(group.used, fullest.limit) > product(fullest.used, group.limit) {
                fullest = group;
            }
            fullest.available = available;
        }
        Ok(fullest)
    }
}

fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

/// The number that the whole text is.
fn bytes(text: &str) -> Option<u64> {
    text.trim_end().parse().ok()
}

/// The number after a name at the beginning of a line: `inactive_file 4096`, `MemTotal:  24684096 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':']))?;
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// /proc/meminfo, where a kB is 1024 bytes.
fn machine(text: &str) -> Option<Sample> {
    let limit = field(text, "MemTotal")?.checked_mul(1024)?;
    let available = field(text, "MemAvailable")?.checked_mul(1024)?;
    Some(Sample {
        level: Level::Normal,
        used: limit.saturating_sub(available),
        limit,
        available,
        psi_some_avg10: None,
        psi_full_avg10: None,
        source: "machine",
    })
}

/// PSI's `some` and `full` of the last 10 s, in percent.
fn stalls(text: &str) -> (Option<f64>, Option<f64>) {
    let average = |kind| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(" avg10="))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    (average("some"), average("full"))
}

/// This process's group with a controller, from /proc/self/cgroup; version 2 names no controllers.
fn group<'a>(membership: &'a str, controller: &str) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        parts.next()?.split(',').any(|name| name == controller).then(|| parts.next())?
    })
}

/// The folders of a group and of those around it, innermost first, as far as they are mounted here.
fn folders(root: &Path, mounts: &str, group: Option<&str>, is_ours: impl Fn(&str, &str) -> bool) -> Vec<PathBuf> {
    let Some(group) = group else { return Vec::new() };
    let mount = mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut place = place.split(' ').skip(3);
        let mut kind = kind.split(' ');
        let (mounted, at) = (place.next()?, place.next()?);
        is_ours(kind.next()?, kind.nth(1)?).then_some((mounted, at))
    });
    let Some((mounted, at)) = mount else { return Vec::new() };
    let top = root.join(at.trim_start_matches('/'));
    // In a container only a part of the tree may be mounted, and a path may lead out of it.
    let below = Path::new(group).strip_prefix(mounted).unwrap_or(Path::new(""));
    let is_inside = below.components().all(|part| matches!(part, Component::Normal(_)));
    let innermost = if is_inside { top.join(below) } else { top.clone() };
    innermost.ancestors().take_while(|folder| folder.starts_with(&top)).map(Path::to_path_buf).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "9:name=systemd:/\n4:memory:/a/b\n3:cpu,cpuacct:/x:y\n0::/u\n";
    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 /a /sys/fs/cgroup/memory rw shared:7 master:1 - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn groups_are_found_by_controller() {
        assert_eq!(group(HYBRID, "memory"), Some("/a/b"));
        assert_eq!(group(HYBRID, "cpuacct"), Some("/x:y"));
        assert_eq!(group(HYBRID, ""), Some("/u"));
        assert_eq!(group("0::/\n", "memory"), None);
        assert_eq!(group("nonsense\n\n:\n", ""), None);
    }

    #[test]
    fn folders_go_from_the_group_to_the_mount() {
        let of = |group, kind: &str| folders(Path::new("/r"), MOUNTS, Some(group), |k, _| k == kind);
        let below = |top: &str, names: &[&str]| names.iter().map(|name| Path::new(top).join(name)).collect::<Vec<_>>();
        let unified = "/r/sys/fs/cgroup/unified";
        assert_eq!(of("/u/v", "cgroup2"), below(unified, &["u/v", "u", ""]));
        assert_eq!(of("/", "cgroup2"), below(unified, &[""]));
        assert_eq!(of("/../../v", "cgroup2"), below(unified, &[""]));
        // Only /a is mounted: its inner groups are there, others aren't.
        assert_eq!(of("/a/b", "cgroup"), below("/r/sys/fs/cgroup/memory", &["b", ""]));
        assert_eq!(of("/other", "cgroup"), below("/r/sys/fs/cgroup/memory", &[""]));
        assert!(of("/u", "cgroup3").is_empty());
    }

    #[test]
    fn numbers_are_taken_whole() {
        let text = "total_inactive_file 7\ninactive_file 4096\ninactive_file_more 1\nMemTotal:       24684096 kB\n";
        assert_eq!(field(text, "inactive_file"), Some(4096));
        assert_eq!(field(text, "MemTotal"), Some(24_684_096));
        assert_eq!(field(text, "file"), None);
        assert_eq!(field("inactive_file\n", "inactive_file"), None);
        assert_eq!((bytes("12\n"), bytes("max\n"), bytes("")), (Some(12), None, None));
    }

    #[test]
    fn stalls_may_be_missing() {
        let text = "some avg10=12.50 avg60=1.00 avg300=0.00 total=9\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(stalls(text), (Some(12.5), Some(0.25)));
        assert_eq!(stalls("some avg10=1.00 avg60=0.00\n"), (Some(1.0), None));
        assert_eq!(stalls(""), (None, None));
    }

    #[test]
    fn levels_begin_later_than_they_end() {
        use Level::{Critical, High, Normal};
        let mut level = Normal;
        let steps = [
            (0.79, 0.0, 0.0, Normal),
            (0.80, 0.0, 0.0, High),
            (0.76, 0.0, 0.0, High),
            (0.74, 0.0, 0.0, Normal),
            (0.95, 0.0, 0.0, Critical),
            (0.91, 0.0, 0.0, Critical),
            (0.89, 0.0, 0.0, High),
            (0.10, 0.0, 0.0, Normal),
            (0.10, 10.0, 10.0, Normal),
            (0.10, 11.0, 0.0, High),
            (0.10, 6.0, 0.0, High),
            (0.10, 60.0, 11.0, Critical),
            (0.10, 60.0, 6.0, Critical),
            (0.10, 6.0, 5.0, High),
            (0.10, 5.0, 5.0, Normal),
        ];
        for (number, (share, some, full, expected)) in steps.into_iter().enumerate() {
            level = level_after(level, share, Some(some), Some(full));
            assert_eq!(level, expected, "step {number}");
        }
        assert_eq!(level_after(Normal, 0.1, None, None), Normal);
    }
}
